"""Keeps the usage log's daily partitions made a week ahead.

Should that fail for a whole week, rows go to the default partition: slower, but nothing is lost and nothing waits.
"""

import asyncio

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.billing import store

DAYS_AHEAD = 7
PAUSE_S = 3600.0


async def keep_made(*, pool: db.Pool, log: FilteringBoundLogger) -> None:
    """Looks once an hour until cancelled. Its failure is logged and tried again an hour later."""
    while True:
        try:
            async with db.transaction(pool) as connection:
                made = await store.make_partitions(connection, days=DAYS_AHEAD)
                missing = await store.missing_partitions(connection, days=DAYS_AHEAD)
            if made:
                log.info("partitions_made", count=made)
            if missing:
                log.error("partitions_missing", count=missing)
        except (TollbridgeError, store.DatabaseError) as error:
            log.error("partitions_not_made", reason=str(error))
        await asyncio.sleep(PAUSE_S)
