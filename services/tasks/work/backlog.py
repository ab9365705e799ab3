"""How much waits, by kind: read from the database every few seconds, for the metrics that workers are scaled by."""

import asyncio
from collections.abc import Iterable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks.work import claim_store
from services.tasks.work.claim_store import Backlog

LOOK_S = 5.0


class BacklogWatch:
    """The latest look. While the database is away it is as it was."""

    def __init__(self, *, pool: db.Pool, kinds: Iterable[str], log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._log = log
        self.now = {kind: Backlog(kind=kind, jobs=0, oldest_s=0.0) for kind in kinds}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.look()
            except TollbridgeError as error:
                self._log.warning("backlog_not_read", error=error.message)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Looks once. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            found = {each.kind: each for each in await claim_store.backlogs(conn)}
        self.now = {kind: found.get(kind, Backlog(kind=kind, jobs=0, oldest_s=0.0)) for kind in self.now}
