"""Calls that wait at the same time are run together: while one batch commits, the next one fills."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batches(Generic[T, R]):
    """Runs what is asked in batches, no key twice in one. It owns the tasks that do; each ends when nobody waits."""

    def __init__(
        self,
        *,
        run: Callable[[list[T]], Awaitable[list[R]]],
        key: Callable[[T], Hashable],
        most: int,
        at_once: int,
    ) -> None:
        self._run = run
        self._key = key
        self._most = most
        self._at_once = at_once
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._taking = 0

    async def ask(self, item: T) -> R:
        """The item's answer; raises what its batch raised."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._taking < self._at_once:
            self._taking += 1
            task = asyncio.create_task(self._drain(), name="batches")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def close(self, *, timeout_s: float) -> None:
        """Waits for the batches that are under way."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    async def _drain(self) -> None:
        """Runs batches until nobody waits; counted out in the step that finds so, since who asks next counts on it."""
        try:
            while batch := self._take():
                await self._serve(batch)
        finally:
            self._taking -= 1

    async def _serve(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        """Runs one batch. A failure belongs to its callers, so it never ends the task."""
        try:
            answers = await self._run([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  handed on to each caller, who raises it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        """The next batch: callers that still wait, no key twice."""
        batch: dict[Hashable, tuple[T, asyncio.Future[R]]] = {}
        later: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._most:
            waiting = self._waiting.popleft()
            if waiting[1].done():
                continue
            key = self._key(waiting[0])
            if key in batch:
                later.append(waiting)
                continue
            batch[key] = waiting
        self._waiting.extendleft(reversed(later))
        return list(batch.values())
