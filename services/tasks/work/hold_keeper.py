"""Sees to it that the money of a job that was taken on stays held for as long as the job may last.

It is held for two minutes when the job is taken on, since nobody would free it soon if the job came to nothing. Should
billing not be reached right after, or the process die, a worker's loop tries again in time.
"""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks import store
from services.tasks.jobs import Job

ROUND_S = 5.0
BATCH = 100
PATIENCE_S = 2.0
"""So long at most does who orders a job wait for this: he must hear that it was taken on, or would order it again."""


class HoldKeeper:
    """`extend` lets a job's hold live longer; False where that has to be tried again."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        extend: Callable[[Job], Awaitable[bool]],
        log: FilteringBoundLogger,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._pool = pool
        self._extend = extend
        self._log = log
        self._patience_s = patience_s

    async def run(self) -> None:
        """Keeps those where it failed, until cancelled."""
        while True:
            try:
                await self.keep_all()
            except TollbridgeError as error:
                self._log.warning("holds_not_kept", error=error.message)
            await asyncio.sleep(ROUND_S)

    async def keep(self, job: Job) -> None:
        """For a job that was just taken on. What fails is left to the loop, so that nothing is raised."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._keep(job)
        except (TollbridgeError, TimeoutError) as error:
            self._log.warning("hold_not_marked", task_id=job.order.id, error=str(error) or "too slow")

    async def keep_all(self) -> int:
        """For those where it failed; how many. Ends at the first that fails again. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            found = await store.held_briefly(conn, limit=BATCH)
        for done, job in enumerate(found):
            if not await self._keep(job):
                return done
        return len(found)

    async def _keep(self, job: Job) -> bool:
        if not await self._extend(job):
            return False
        if job.order.is_held:
            async with db.transaction(self._pool) as conn:
                await store.mark_held(conn, job.order.id)
        return True
