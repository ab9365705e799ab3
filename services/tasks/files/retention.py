"""Removes files: those whose time is over, those that their customers want gone, and what came to nothing.

What the database says is done first: a file that nobody is shown any more and that the store still has for a while is
no harm; one that is shown and gone is. Should the store be away, or the process end, `leftovers.py` knows what is owed.
"""

import asyncio
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks.files import file_store, leftovers
from services.tasks.files.results import Results

ROUND_S = 60.0
BATCH = 100


class Retention:
    """One loop, owned by the process's lifecycle."""

    def __init__(self, *, pool: db.Pool, results: Results, log: FilteringBoundLogger) -> None:
        self._pool, self._results, self._log = pool, results, log

    async def run(self) -> None:
        """Removes until cancelled."""
        while True:
            try:
                removed = await self.round()
            except TollbridgeError as error:
                self._log.warning("files_not_removed", error=error.message)
                removed = 0
            if removed < BATCH:
                await asyncio.sleep(ROUND_S)

    async def round(self) -> int:
        """Removes a batch of files whose time is over, and clears a batch of what is owed; the larger of the two.

        Raises UNAVAILABLE.
        """
        async with db.transaction(self._pool) as conn:
            found = await file_store.to_remove(conn, limit=BATCH)
            await file_store.removed(conn, found)
        async with db.transaction(self._pool) as conn:
            owed = await leftovers.take(conn, limit=BATCH)
        await self.clear(owed)
        return max(len(found), len(owed))

    async def remove(self, file_ids: Sequence[str]) -> None:
        """Removes files now. Raises UNAVAILABLE when the database is away."""
        async with db.transaction(self._pool) as conn:
            await file_store.removed(conn, file_ids)
        await self.clear(file_ids)

    async def clear(self, file_ids: Sequence[str]) -> None:
        """Takes noted files out of the store; what can't be now is taken at a later round."""
        for file_id in file_ids:
            try:
                await self._results.delete(file_id)
                async with db.transaction(self._pool) as conn:
                    await leftovers.forget(conn, (file_id,))
            except TollbridgeError as error:
                self._log.warning("file_not_removed", file_id=file_id, error=error.message)
