"""How many requests a model works on at once, and how many may wait: one more is told to come back.

Work in a thread can't be cancelled. It keeps its turn to its end, also when nobody waits for it any more, so that
callers who give up and come back don't pile up work behind each other.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from upstream.local.failure import Refused

T = TypeVar("T")


class Turns:
    """Turns at one model."""

    def __init__(self, *, at_once: int, waiting: int) -> None:
        self._seats = asyncio.Semaphore(at_once)
        self._room = at_once + waiting
        self._here = 0
        self._working: set[asyncio.Task[object]] = set()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn for the time of the block. Raises Refused (429) when too many wait."""
        if self._here >= self._room:
            raise Refused(429, "The model is busy; try again in a moment.")
        self._here += 1
        try:
            async with self._seats:
                yield
        finally:
            self._here -= 1

    async def in_thread(self, work: Callable[[], T]) -> T:
        """What `work` returns, in a thread that has a turn until it is done. Raises Refused (429)."""

        async def working() -> T:
            async with self.turn():
                return await asyncio.to_thread(work)

        task = asyncio.create_task(working())
        self._working.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: "asyncio.Task[object]") -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has had it; when nobody did, nobody is told
