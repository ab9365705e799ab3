"""Looks after jobs that were left: those of workers that fell silent go back into the line, those out of time end.

The database is looked at every few seconds by each worker process; rows that one looks at are passed over by others.
Who is silent is judged as a look ends, for a look may itself have waited for a database that stood still. Each process
judges by what it has heard: a worker that stands still alone loses its jobs to another, as one that has died does.
"""

import asyncio
import random
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks import events, jobs, outbox
from services.tasks.ends import Ends
from services.tasks.jobs import Job, Status
from services.tasks.work import claim_store
from services.tasks.work.listening import Listening

SWEEP_S = 5.0
BATCH = 100


class Sweeper:
    """One loop, owned by the process's lifecycle."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        ends: Ends,
        listening: Listening,
        on_outbox: Callable[[], None],
        log: FilteringBoundLogger,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._pool = pool
        self._ends = ends
        self._listening = listening
        self._on_outbox = on_outbox
        self._log = log
        self._chance = chance

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.sweep()
            except TollbridgeError as error:
                self._listening.broke()
                self._log.warning("jobs_not_swept", error=error.message)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Looks once; how many jobs it found. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            overdue = await claim_store.overdue(conn, limit=BATCH)
        if not self._knows_who_is_silent():
            overdue = [job for job in overdue if job.status is Status.PENDING]
        for job in overdue:
            await self._ends.expire(job.order.id, code=Code.DEADLINE_EXCEEDED, message="The task took too long.")
        hopeful, hopeless = await db.in_transaction(self._pool, self._take_back)
        for job in hopeless:
            message = "The task could not be finished."
            await self._ends.fail(job, code=Code.INTERNAL, message=message, is_provider=False)
        count = len(overdue) + len(hopeful) + len(hopeless)
        if count:
            self._log.info("jobs_swept", count=count)
            self._on_outbox()
        return count

    async def _take_back(self, conn: db.Connection) -> tuple[list[Job], list[Job]]:
        """The jobs of silent workers: those that wait again, ordered anew, and those that were tried too often.

        A job that kills its worker each time is not tried for ever, and those that died with it are soon apart from it.
        """
        found = await claim_store.lapsed(conn, limit=BATCH)
        if not self._knows_who_is_silent():
            return [], []
        hopeful = [job for job in found if job.strikes + 1 < jobs.MAX_STRIKES]
        for job in hopeful:
            pause_s = jobs.outage_s(job.strikes + 1, chance=self._chance())
            await claim_store.release(conn, job.order.id, claim_number=job.claims, pause_s=pause_s, is_strike=True)
            order, trace = events.work_order(job.order), job.order.traceparent
            await outbox.add(conn, kind="run", task_id=job.order.id, payload=order, traceparent=trace)
        return hopeful, [job for job in found if job.strikes + 1 >= jobs.MAX_STRIKES]

    def _knows_who_is_silent(self) -> bool:
        """To be asked as a look ends. Not before every living worker could have spoken for a whole lease."""
        return self._listening.goes_on() >= jobs.LEASE_S
