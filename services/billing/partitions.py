"""Keeps the usage log's daily partitions made a week ahead, and drops what is older than the config keeps.

Should making them fail for a whole week, rows go to the default partition: slower, but nothing is lost and nothing
waits. What is dropped are days of the log and holds that resolved long ago, in bounded steps and by one replica at a
time; transfers are kept for ever.
"""

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.billing import store
from services.billing.config import BillingConfig

DAYS_AHEAD = 7
PAUSE_S = 3600.0
MAX_STEPS = 1000
"""Steps of one look; what is left then waits an hour."""
STEP_ROWS = 1000


async def keep(*, pool: db.Pool, config: Callable[[], BillingConfig], log: FilteringBoundLogger) -> None:
    """Looks once an hour until cancelled. Its failure is logged and tried again an hour later."""
    while True:
        try:
            await make(pool=pool, log=log)
            await drop(pool=pool, config=config(), log=log)
        except (TollbridgeError, store.DatabaseError) as error:
            log.error("partitions_not_kept", reason=str(error))
        await asyncio.sleep(PAUSE_S)


async def make(*, pool: db.Pool, log: FilteringBoundLogger) -> None:
    """Makes what is missing of the next days."""
    async with db.transaction(pool) as connection:
        made = await store.make_partitions(connection, days=DAYS_AHEAD)
        missing = await store.missing_partitions(connection, days=DAYS_AHEAD)
    if made:
        log.info("partitions_made", count=made)
    if missing:
        log.error("partitions_missing", count=missing)


async def drop(*, pool: db.Pool, config: BillingConfig, log: FilteringBoundLogger) -> int:
    """Drops what is too old, each step in a transaction of its own; returns how many steps did something."""
    steps = 0
    for _ in range(MAX_STEPS):
        async with db.transaction(pool) as connection:
            dropped = await store.drop_old(
                connection,
                usage_kept_days=config.usage_kept_days,
                holds_kept_days=config.holds_kept_days,
                limit=STEP_ROWS,
            )
        if not dropped:
            break
        steps += 1
    if steps:
        log.info("old_rows_dropped", steps=steps)
    return steps
