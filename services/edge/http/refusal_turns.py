"""So few refusals in one turn of the loop that others get on: whoever is refused asks again at once.

Those inside need many turns of the loop for each request; without this, refusals of an overload would take all of them.
"""

import asyncio
import collections

REFUSED_AT_ONCE = 128
"""In one turn of the loop."""


class RefusalTurns:
    """Who is refused waits here for its turn, in the order in which they came. For one event loop."""

    def __init__(self) -> None:
        self._now = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def wait(self) -> None:
        """Until so few are refused in one turn of the loop. Who is cancelled meanwhile is passed over."""
        loop = asyncio.get_running_loop()
        if not self._now:
            loop.call_soon(self._next)
        self._now += 1
        if self._now > REFUSED_AT_ONCE:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn

    def _next(self) -> None:
        self._now = 0
        while self._waiting and self._now < REFUSED_AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._now += 1
        if self._now:
            asyncio.get_running_loop().call_soon(self._next)
