"""Closes batches of transfers: see `seals` for what a seal is."""

import asyncio
import contextlib

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.billing import store
from services.billing.proof import seal_store
from services.billing.proof.seals import FIRST, seal_hash
from services.billing.written import Memory

PAUSE_S = 20.0
LEAST_PAUSE_S = 1.0
"""While more is written than is remembered so long."""
MAX_BATCH = 2000
MAX_BATCHES = 500
"""Of one round; what is left then waits for the next."""


class Sealer:
    """The loop that closes batches. Its owner runs `run()` as a task; of all replicas one works at a time."""

    def __init__(self, *, pool: db.Pool, log: FilteringBoundLogger, memory: Memory | None = None) -> None:
        self._pool = pool
        self._log = log
        self._memory = memory or Memory()

    async def run(self) -> None:
        """Seals every PAUSE_S, sooner when much is written, until cancelled; what fails is logged, and tried again."""
        while True:
            self._memory.start_reading()
            try:
                await self.seal()
            except (TollbridgeError, store.DatabaseError) as error:
                self._log.warning("not_sealed", reason=str(error))
            await asyncio.sleep(LEAST_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S - LEAST_PAUSE_S):  # wait_for may lose a cancellation
                    await self._memory.is_filling.wait()

    async def seal(self) -> int:
        """Closes batches until nothing waits; returns how many."""
        for done in range(MAX_BATCHES):
            sealed = await self._close_one()
            if sealed < MAX_BATCH:
                return done + (sealed > 0)
        return MAX_BATCHES

    async def _close_one(self) -> int:
        """Seals what waits, a batch at most; how many transfers that was."""
        async with db.transaction(self._pool) as connection:
            waiting = await seal_store.take(connection, self._memory, limit=MAX_BATCH)
            if not waiting:
                return 0
            missing = [id_ for id_, text in waiting if text is None]
            if missing:
                self._log.error(
                    "transfers_removed_before_sealed", ids=[str(id_) for id_ in missing[:10]], count=len(missing)
                )
            last = await seal_store.newest(connection)
            n, previous = (last[0] + 1, last[1]) if last else (1, FIRST)
            await seal_store.add(
                connection,
                n=n,
                previous=previous,
                hash_=seal_hash(n, previous, (text for _, text in waiting if text is not None)),
                transfer_ids=(id_ for id_, _ in waiting),
                emptied=len(waiting) < MAX_BATCH,
            )
        return len(waiting)
