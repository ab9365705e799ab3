"""Finds jobs that nobody works on and orders them again, or ends them when there is no hope.

What gets lost: a work order (with the bus's data), a worker (its lease lapses), or time. The database is looked at
every few seconds by each worker; rows that one looks at are passed over by the others.
"""

import asyncio
import time
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks import events, outbox, store
from services.tasks.ends import Ends
from services.tasks.jobs import Job

SWEEP_S = 5.0
SILENT_S = 35.0
"""An order that is younger may still be on its way, or wait for its pause."""
BATCH = 100


class Sweeper:
    """One loop, owned by the process's lifecycle."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        ends: Ends,
        on_outbox: Callable[[], None],
        log: FilteringBoundLogger,
        silent_s: float = SILENT_S,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pool = pool
        self._ends = ends
        self._on_outbox = on_outbox
        self._log = log
        self._silent_s = silent_s
        self._now_us = now_us

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.sweep()
            except TollbridgeError as error:
                self._log.warning("jobs_not_swept", error=error.message)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Looks once; how many jobs it found. Raises UNAVAILABLE."""
        found = await db.in_transaction(self._pool, self._order_again)
        for job, hopeless in found:
            if hopeless:
                await self._give_up(job)
        if found:
            self._log.info("jobs_swept", count=len(found))
            self._on_outbox()
        return len(found)

    async def _order_again(self, conn: db.Connection) -> list[tuple[Job, bool]]:
        found = await store.lost(conn, silent_s=self._silent_s, limit=BATCH)
        hopeful = [job for job, hopeless in found if not hopeless]
        for job in hopeful:
            await outbox.add(
                conn,
                kind="run",
                task_id=job.order.id,
                payload=events.work_order(job.order),
                traceparent=job.order.traceparent,
            )
        await store.mark_announced(conn, [job.order.id for job in hopeful])
        return found

    async def _give_up(self, job: Job) -> None:
        """Ends it at nobody's cost; a worker that is still at it loses its claim by that."""
        if job.deadline_us <= self._now_us():
            code, message = Code.DEADLINE_EXCEEDED, "The task took too long."
        else:
            code, message = Code.INTERNAL, "The task could not be finished."
        await self._ends.fail(job, code=code, message=message, is_provider=False)
