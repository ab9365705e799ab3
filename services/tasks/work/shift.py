"""One kind's jobs in one process: takes the next one whenever there is room, and sees each to its end.

Which one is next, the database decides (`claim_store.claim_next`). A work order from the bus wakes; without the bus the
line is looked at every second. Each job runs in a task that the shift owns; `close` gives what runs a little time; the
rest it cancels, and the worker gives it back, so that another process takes it up at once.
"""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks.jobs import Job
from services.tasks.work import claim_store

LOOK_S = 1.0


class Shift:
    """Runs at most `at_once` jobs of a kind. `run` sees one to its end, `give_back` returns one that nobody runs,
    `is_elsewhere` tells of one whether its provider works on it without us."""

    def __init__(
        self,
        *,
        kind: str,
        at_once: int,
        pool: db.Pool,
        spender: str,
        run: Callable[[Job], Awaitable[object]],
        give_back: Callable[[Job], Awaitable[None]],
        is_elsewhere: Callable[[str], bool],
        log: FilteringBoundLogger,
    ) -> None:
        self._kind = kind
        self._pool = pool
        self._spender = spender
        self._run = run
        self._give_back = give_back
        self._is_elsewhere = is_elsewhere
        self._log = log
        self._room = asyncio.Semaphore(at_once)
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Future[object], str] = {}

    @property
    def running(self) -> int:
        """Jobs that run now."""
        return len(self._running)

    def wake(self) -> None:
        """Something may wait."""
        self._wake.set()

    async def work(self) -> None:
        """Takes jobs until cancelled; those that run go on until `close`."""
        while True:
            await self._room.acquire()
            self._wake.clear()
            try:
                job = await self._next()
            except BaseException:
                self._room.release()
                raise
            if job is None:
                self._room.release()
                await self._pause()
            else:
                self._start(job)

    async def close(self, *, grace_s: float = 0.0) -> None:
        """Waits a while for what would be made anew otherwise, then cancels what runs and waits until it is given back.

        What goes on at its provider needs no waiting for: whoever has it next asks there.
        """
        here = [task for task, job_id in self._running.items() if not self._is_elsewhere(job_id)]
        if here and grace_s > 0:
            await asyncio.wait(here, timeout=grace_s)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _next(self) -> Job | None:
        """The job whose turn it is. A claim that is under way when we are stopped is not left to its lease."""
        claiming = asyncio.create_task(self._claim(), name=f"claim {self._kind}")
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            if (job := await claiming) is not None:
                await self._give_back(job)
            raise

    async def _claim(self) -> Job | None:
        try:
            async with db.transaction(self._pool) as conn:
                return await claim_store.claim_next(conn, self._kind, spender=self._spender)
        except TollbridgeError as error:
            self._log.warning("no_job_claimed", kind=self._kind, error=error.message)
            return None

    def _start(self, job: Job) -> None:
        task = asyncio.ensure_future(self._run(job))
        self._running[task] = job.order.id
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Future[object]") -> None:
        self._running.pop(task, None)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("job_broke", exc_info=error)  # its lease lapses and the sweeper brings it back

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return
