"""Lines of requests that wait for a slot: one per model, first come first served in this replica, and bounded.

Only the head of a line looks for a slot. It looks when this replica has freed one of an account that it waits for, and
now and then for what other replicas have freed, the seldomer the longer it finds none.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection

MAX_WAITING = 1000
"""Requests in all lines together; one more is told to come back."""
LOOK_FIRST_S = 0.05
LOOK_MOST_S = 0.4


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


class WaitingRoom:
    """All lines of a replica. A changed config doesn't move anybody who stands in one."""

    def __init__(self) -> None:
        self._lines: dict[str, asyncio.Lock] = {}
        self._standing: Counter[str] = Counter()
        self._heads: set[Head] = set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._standing.total()

    @property
    def is_full(self) -> bool:
        """Whether nobody more may wait."""
        return self.waiting >= MAX_WAITING

    def has_line(self, model_id: str) -> bool:
        """Whether somebody waits for that model already: whoever comes now stands behind."""
        return self._standing[model_id] > 0

    @contextlib.asynccontextmanager
    async def at_the_head(self, model_id: str, account_ids: Collection[str]) -> AsyncIterator[Head]:
        """Waits for one's turn in the model's line, and is the head of it for as long as this lasts."""
        line = self._lines.setdefault(model_id, asyncio.Lock())
        head = Head(account_ids=account_ids)
        self._standing[model_id] += 1
        try:
            async with line:
                self._heads.add(head)
                yield head
        finally:
            self._heads.discard(head)
            self._standing[model_id] -= 1
            if not self._standing[model_id]:
                del self._standing[model_id], self._lines[model_id]

    def freed(self, account_ids: Collection[str]) -> None:
        """Slots of these accounts came free here."""
        for head in self._heads:
            head.freed(account_ids)
