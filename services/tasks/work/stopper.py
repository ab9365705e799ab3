"""Stops at their providers the jobs that nobody wants any more: cancelled, out of time, or failed on our side.

The end of a job says in the database that it is to be stopped, so that it is, whatever became of its worker. It is
tried a bounded number of times: a provider that can't be told has its own time limit.
"""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks.jobs import Job
from services.tasks.work import claim_store
from upstream.outcome import AttemptFailed

LOOK_S = 5.0
AT_ONCE = 4
TIMEOUT_S = 20.0


class Stopper:
    """One loop, owned by the process's lifecycle. `stop` tells the provider of a job."""

    def __init__(self, *, pool: db.Pool, stop: Callable[[Job], Awaitable[None]], log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._stop = stop
        self._log = log
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A job has ended."""
        self._wake.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            self._wake.clear()
            try:
                if await self.look():
                    continue
            except TollbridgeError as error:
                self._log.warning("jobs_not_stopped", error=error.message)
            await self._pause()

    async def look(self) -> int:
        """Stops some; how many were to be stopped. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            found = await claim_store.take_to_stop(conn, limit=AT_ONCE)
        await asyncio.gather(*map(self._stop_one, found))
        return len(found)

    async def _stop_one(self, job: Job) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._stop(job)
            async with db.transaction(self._pool) as conn:
                await claim_store.stopped(conn, job.order.id)
        except (AttemptFailed, TollbridgeError, TimeoutError) as error:
            self._log.warning("job_not_stopped_at_provider", task_id=job.order.id, error=str(error))

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return
