"""Forgets jobs that ended long ago: their rows, what their files were, and their webhooks.

A job is kept while anything of it is not over: a settlement that billing has not confirmed, a file that is still there,
a webhook that is tried, a provider that is to be told. One process at a time does it, a batch after the other.
"""

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks.work import claim_store

ROUND_S = 60.0
BATCH = 100
BREATH_S = 0.2
"""Between two batches: what is due after a long time must not keep customers waiting."""


class Forgetter:
    """One loop, owned by the process's lifecycle. `keep_s` says how long a job is kept from its end."""

    def __init__(self, *, pool: db.Pool, keep_s: Callable[[], float], log: FilteringBoundLogger) -> None:
        self._pool, self._keep_s, self._log = pool, keep_s, log

    async def run(self) -> None:
        """Forgets until cancelled."""
        while True:
            try:
                forgotten = await self.round()
            except TollbridgeError as error:
                self._log.warning("tasks_not_forgotten", error=error.message)
                forgotten = 0
            await asyncio.sleep(BREATH_S if forgotten == BATCH else ROUND_S)

    async def round(self) -> int:
        """Forgets a batch; none while another process does. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            return await claim_store.forget(conn, kept_s=self._keep_s(), limit=BATCH)
