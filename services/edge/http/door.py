"""How many requests a process takes, and how many it begins at once: an overload costs little and is soon over.

A request that is refused in vain costs a small part of one that is served, so what can't be served in time is refused
when it comes, before its key is looked up and its body read: when too many are served already, and when so many wait to
begin that the last would wait for more than LINE_S at the pace of the last second. Few begin in one turn of the loop,
since all that have begun share its turns: those who wait stand still, cost nothing and are begun in the order in which
they came. So after an overload only its line is left, which is served within two seconds.
"""

import asyncio
import collections
from collections.abc import Callable

from chassis.errors import Code, TollbridgeError

MOST_INSIDE = 12_000
"""Requests of one process, answers that are still being sent included: half a gigabyte, were all of them streams."""
MOST_AT_ONCE = 32
"""Begun in one turn of the loop: a tenth of a second's work."""
LINE_S = 1.5
MOST_LINE = 2048
"""As long as no pace is known: a burst out of nothing is served, however steep it is."""
LEAST_LINE = 64
PACE_S = 1.0
PATIENCE_S = 5.0
"""Who waited for so long is refused, too: the pace has fallen behind them."""


class Door:
    """Who may come in and who may begin. For one event loop."""

    def __init__(self, *, clock: Callable[[], float], most_inside: int = MOST_INSIDE) -> None:
        self._clock = clock
        self.most_inside = most_inside
        self.inside = 0
        """Requests that were let in and have not left."""
        self.refused = 0
        """How many were refused so far."""
        self._beginning = 0
        self._line: collections.deque[asyncio.Future[None]] = collections.deque()
        self._waiting = 0
        self._line_since_s = 0.0
        self._begun_s: collections.deque[float] = collections.deque()

    @property
    def waiting(self) -> int:
        """Requests that were let in and wait to begin."""
        return self._waiting

    def enter(self) -> "Visit":
        """Lets a request in. Raises OVERLOADED; never waits."""
        if self.inside >= self.most_inside or self._waiting >= self._longest_line():
            raise self._refusal()
        self.inside += 1
        return Visit(self)

    def _longest_line(self) -> int:
        if not self._waiting:
            return MOST_LINE
        now_s = self._clock()
        if now_s - self._line_since_s < PACE_S:
            return MOST_LINE
        self._forget(now_s)
        return max(LEAST_LINE, int(len(self._begun_s) * LINE_S / PACE_S))

    async def _begin(self) -> None:
        if self._beginning < MOST_AT_ONCE and not self._waiting:
            self._start()
            return
        if not self._waiting:
            self._line_since_s = self._clock()
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._done()  # its turn came in the moment in which it gave up
            else:
                turn.cancel()
                self._waiting -= 1
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def _start(self) -> None:
        self._beginning += 1
        now_s = self._clock()
        self._begun_s.append(now_s)
        self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        while self._begun_s and self._begun_s[0] < now_s - PACE_S:
            self._begun_s.popleft()

    def _done(self) -> None:
        """One has begun: the next in line may."""
        self._beginning -= 1
        while self._line and self._beginning < MOST_AT_ONCE:
            turn = self._line.popleft()
            if not turn.done():
                self._waiting -= 1
                self._start()
                turn.set_result(None)

    def _refusal(self) -> TollbridgeError:
        self.refused += 1
        return TollbridgeError(Code.OVERLOADED, "Too many requests run here now. Please retry.", retry_after_s=1)


class Visit:
    """One request's stay. Who was let in leaves, whatever happens; leaving twice is leaving once."""

    __slots__ = ("_begins", "_door", "_left")

    def __init__(self, door: Door) -> None:
        self._door = door
        self._begins = self._left = False

    async def begin(self) -> None:
        """Waits for its turn to begin what costs time. Raises OVERLOADED."""
        await self._door._begin()
        self._begins = True

    def begun(self) -> None:
        """It has begun: what is left of it is mostly waiting."""
        if self._begins:
            self._begins = False
            self._door._done()

    def leave(self) -> None:
        """It was answered, or its client is gone."""
        self.begun()
        if not self._left:
            self._left = True
            self._door.inside -= 1
