"""Lines of requests that wait for a slot: one per model, first come first served in this replica, and bounded.

Only the head of a line looks for a slot. It looks when this replica has freed one of an account that it waits for, and
now and then for what other replicas have freed, the seldomer the longer it finds none. At the pace at which those
before were seated it can be told who would wait in vain: a line that is too long to be served is long for all.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection

from chassis.errors import Code, TollbridgeError

MAX_WAITING = 1000
"""Requests in all lines together; one more is told to come back."""
LOOK_FIRST_S = 0.05
LOOK_MOST_S = 0.4
SEATS_KEPT = 64
LEAST_SEATS = 8
"""Seated since the line began: fewer say nothing about its pace."""
LONGEST_AFTER_S = 60.0


def all_busy(model_id: str, *, after_s: float = 0.0) -> TollbridgeError:
    """What is told to whom no slot was free; `after_s` is when there may be room in the line."""
    message, retry_after_s = f"All slots of {model_id!r} are busy.", min(max(after_s, 1.0), LONGEST_AFTER_S)
    return TollbridgeError(Code.OVERLOADED, message, details={"reason": "busy"}, retry_after_s=retry_after_s)


class Head:
    """The first of a line."""

    def __init__(self, *, account_ids: Collection[str]) -> None:
        self._account_ids = frozenset(account_ids)
        self._freed = asyncio.Event()
        self._pause_s = LOOK_FIRST_S

    def freed(self, account_ids: Collection[str]) -> None:
        """Slots of these accounts came free."""
        if not self._account_ids.isdisjoint(account_ids):
            self._freed.set()

    async def look_again(self) -> None:
        """Waits until it is worth looking again. What was freed during the last look is not missed."""
        try:
            async with asyncio.timeout(self._pause_s):
                await self._freed.wait()
        except TimeoutError:
            self._pause_s = min(2 * self._pause_s, LOOK_MOST_S)
            return
        self._freed.clear()
        self._pause_s = LOOK_FIRST_S


class _Line:
    """Who waits for one model, and when those before them were seated."""

    __slots__ = ("lock", "seated_s", "standing")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.standing = 0
        self.seated_s: deque[float] = deque(maxlen=SEATS_KEPT)

    def wait_s(self, now_s: float) -> float:
        if len(self.seated_s) < LEAST_SEATS:
            return 0.0
        return self.standing * (now_s - self.seated_s[0]) / len(self.seated_s)


class WaitingRoom:
    """All lines of a replica. A changed config doesn't move anybody who stands in one."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._heads: set[Head] = set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(line.standing for line in self._lines.values())

    @property
    def is_full(self) -> bool:
        """Whether nobody more may wait."""
        return self.waiting >= MAX_WAITING

    def has_line(self, model_id: str) -> bool:
        """Whether somebody waits for that model already: whoever comes now stands behind."""
        return model_id in self._lines

    def wait_s(self, model_id: str) -> float:
        """How long whoever comes now would stand in that line, at the pace of those seated last; 0 if that isn't known.

        Long answers that end together seat more than that, so little evidence is none.
        """
        line = self._lines.get(model_id)
        return line.wait_s(self._clock()) if line else 0.0

    @contextlib.asynccontextmanager
    async def at_the_head(self, model_id: str, account_ids: Collection[str]) -> AsyncIterator[Head]:
        """Waits for one's turn in the model's line, and is the head of it for as long as this lasts.

        Who leaves without an error was seated.
        """
        line = self._lines.setdefault(model_id, _Line())
        head = Head(account_ids=account_ids)
        line.standing += 1
        try:
            async with line.lock:
                self._heads.add(head)
                yield head
                line.seated_s.append(self._clock())
        finally:
            self._heads.discard(head)
            line.standing -= 1
            if not line.standing:
                del self._lines[model_id]

    def freed(self, account_ids: Collection[str]) -> None:
        """Slots of these accounts came free here."""
        for head in self._heads:
            head.freed(account_ids)
