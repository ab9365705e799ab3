"""How many requests a process takes, and how many it begins at once: an overload costs little and is soon over.

A request that is refused in vain costs a small part of one that is served, so what can't be served in time is refused
when it comes, before its key is looked up and its body read: when too many are inside already, and when so many wait to
begin that the last would wait for more than LINE_S at the pace of the last second. Who begins has a place until its
provider is asked, and there are about as many places as requests got through in a second: more would only make each
other slow, here and in everybody they ask. Those who wait stand still, cost nothing and begin in the order in which
they came. So after an overload only its line is left, which is served within two seconds. Refusals take turns, too
(refusal_turns.py).

Who waits for something that others may have at once (a slot, a body) must not keep them waiting: it loses its place
after a moment, which is the longer the slower this process is itself.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import TypeVar

from chassis.errors import Code, TollbridgeError
from services.edge.http.refusal_turns import RefusalTurns

T = TypeVar("T")

MOST_INSIDE = 12_000
"""Requests of one process, answers that are still being sent included: half a gigabyte, were all of them streams."""
LEAST_PLACES = 64
LINE_S = 1.5
MOST_LINE = 2048
"""As long as no pace is known: a burst out of nothing is served, however steep it is, if it can be in time."""
LEAST_LINE = 256
PACE_S = 1.0
PATIENCE_S = 5.0
"""Who waited for so long is refused, too: the pace has fallen behind them."""
LOOK_S = 0.1
HOLD_S = 0.25
HOLD_PER_LATE_S = 10
"""A place is held for so many times longer as a look comes late: then it is this process that is slow."""
MOST_HOLD_S = 3.0


class Door:
    """Who may come in and who may begin. For one event loop."""

    def __init__(self, *, clock: Callable[[], float], most_inside: int = MOST_INSIDE) -> None:
        self._clock = clock
        self.most_inside = most_inside
        self.inside = 0
        """Requests that were let in and have not left."""
        self.waiting = 0
        """Those of them that wait to begin."""
        self.refused = 0
        """How many were refused so far."""
        self._line: collections.deque[tuple[Visit, asyncio.Future[bool]]] = collections.deque()
        self._line_since_s = 0.0
        self._places: dict[Visit, float] = {}
        self._through_s: collections.deque[float] = collections.deque()
        self._look_due_s: float | None = None
        self._refusals = RefusalTurns()

    async def admit(self) -> "Visit":
        """Lets a request in. Raises OVERLOADED, to so many in one turn of the loop that others get on, too."""
        try:
            return self.enter()
        except TollbridgeError:
            await self._refusals.wait()
            raise

    def enter(self) -> "Visit":
        """Lets a request in. Raises OVERLOADED; never waits."""
        if self.inside >= self.most_inside or self.waiting >= self._longest_line():
            raise self._refusal()
        self.inside += 1
        return Visit(self)

    def _pace(self) -> int:
        """How many got through in the last second."""
        since_s = self._clock() - PACE_S
        while self._through_s and self._through_s[0] < since_s:
            self._through_s.popleft()
        return len(self._through_s)

    def _longest_line(self) -> int:
        if not self.waiting or self._clock() - self._line_since_s < PACE_S:
            return MOST_LINE
        return max(LEAST_LINE, int(self._pace() * LINE_S / PACE_S))

    async def _begin(self, visit: "Visit", *, again: bool) -> None:
        """Gives a place, to whom had one before first. Raises OVERLOADED."""
        if not self.waiting and self._has_place():
            self._take(visit)
            return
        if not self.waiting:
            self._line_since_s = self._clock()
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if again:
            self._line.appendleft((visit, turn))
        else:
            self._line.append((visit, turn))
        self.waiting += 1
        self._watch()
        try:
            async with asyncio.timeout(PATIENCE_S):
                has_place = await turn
        except BaseException as error:
            if turn.cancelled():  # it is in the line still, where it is passed over; a place that came is left
                self.waiting -= 1
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise
        if not has_place:
            raise self._refusal()

    def _has_place(self) -> bool:
        return len(self._places) < LEAST_PLACES or len(self._places) < self._pace()

    def _take(self, visit: "Visit") -> None:
        self._places[visit] = self._clock()
        self._watch()

    def _give(self, visit: "Visit", *, through: bool) -> None:
        """Its place, if it has one, is somebody else's."""
        if self._places.pop(visit, None) is None:
            return
        if through:
            self._through_s.append(self._clock())
        while self._line and self._has_place():
            following, turn = self._line.popleft()
            if not turn.done():
                self.waiting -= 1
                self._take(following)
                turn.set_result(True)

    def _watch(self) -> None:
        if self._look_due_s is None:
            self._look_due_s = self._clock() + LOOK_S
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Ends places that are held for too long, and a line that has become too long, from its end."""
        now_s, due_s = self._clock(), self._look_due_s or 0.0
        self._look_due_s = None
        hold_s = min(HOLD_S + HOLD_PER_LATE_S * max(0.0, now_s - due_s), MOST_HOLD_S)
        for visit, since_s in list(self._places.items()):
            if now_s - since_s < hold_s:
                break
            self._give(visit, through=False)
        longest = self._longest_line()
        while self.waiting > longest:
            _, turn = self._line.pop()
            if not turn.done():
                self.waiting -= 1
                turn.set_result(False)
        if self._places or self.waiting:
            self._watch()

    def _refusal(self) -> TollbridgeError:
        self.refused += 1
        return TollbridgeError(Code.OVERLOADED, "Too many requests run here now. Please retry.", retry_after_s=1)


class Visit:
    """One request's stay. Who was let in leaves, whatever happens; leaving twice is leaving once."""

    __slots__ = ("_door", "_has_begun", "_left")

    def __init__(self, door: Door) -> None:
        self._door = door
        self._has_begun = self._left = False

    async def begin(self) -> None:
        """Waits for a place, unless it has one. Raises OVERLOADED."""
        if self not in self._door._places:
            again, self._has_begun = self._has_begun, True
            await self._door._begin(self, again=again)

    async def outside(self, what: Awaitable[T]) -> T:
        """Awaits what may come late, and then a place: unless it is there at once, others have the place meanwhile.

        Raises OVERLOADED.
        """
        stepping_aside = asyncio.get_running_loop().call_soon(self._step_aside)
        try:
            found = await what
        finally:
            stepping_aside.cancel()
        await self.begin()
        return found

    def through(self) -> None:
        """A provider is asked: what is left is mostly waiting."""
        self._door._give(self, through=True)

    def leave(self) -> None:
        """It was answered, or its client is gone."""
        self._step_aside()
        if not self._left:
            self._left = True
            self._door.inside -= 1

    def _step_aside(self) -> None:
        self._door._give(self, through=False)
