"""Alerts: each replica shows the newest recorded proofs as metrics, and logs one that found a difference, once."""

import asyncio
import datetime

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.billing import store
from services.billing.figures import Figures
from services.billing.proof import proof_store

PAUSE_S = 60.0


class ProofWatch:
    """The loop that looks. Its owner runs `run()` as a task."""

    def __init__(self, *, pool: db.Pool, figures: Figures, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._figures = figures
        self._log = log
        self._told: dict[tuple[str, str], datetime.datetime] = {}

    async def run(self) -> None:
        """Looks once a minute until cancelled; a look that fails is the next one's."""
        while True:
            try:
                await self.look()
            except (TollbridgeError, store.DatabaseError) as error:
                self._log.warning("proofs_not_read", reason=str(error))
            await asyncio.sleep(PAUSE_S)

    async def look(self) -> None:
        """Shows what is newest. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as connection:
            proofs = await proof_store.newest(connection)
        for proof in proofs:
            name = (proof.kind, proof.subject)
            self._figures.proof_differences.labels(*name).set(proof.differences)
            self._figures.proof_made.labels(*name).set(proof.made_at.timestamp())
            if self._told.get(name) == proof.made_at:
                continue
            self._told[name] = proof.made_at
            if not proof.clean:
                self._log.error(
                    "ledger_proof_failed", kind=proof.kind, subject=proof.subject, differences=proof.differences
                )
