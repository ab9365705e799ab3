"""Keeps the usage log's daily partitions made a week ahead, and drops what is older than the config keeps.

Should making them fail for a whole week, rows go to the default partition: slower, but nothing is lost and nothing
waits. What is dropped are days of the log, holds that resolved long ago and ids of batches that nobody asks about any
more, in bounded steps; transfers are kept for ever. Each stands alone: where one can't be done the others are.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from chassis.ids import uuid7_at
from services.billing import batch_store, store
from services.billing.config import BillingConfig

DAYS_AHEAD = 7
BATCHES_KEPT_MS = 86_400_000
PAUSE_S = 3600.0
MAX_STEPS = 1000
"""Steps of one look; what is left then waits an hour."""
STEP_ROWS = 5000
"""Within the statement timeout many times over, and more in an hour than a thousand requests a second leave."""


async def keep(*, pool: db.Pool, config: Callable[[], BillingConfig], log: FilteringBoundLogger) -> None:
    """Looks once an hour until cancelled."""
    while True:
        await look(pool=pool, config=config(), log=log)
        await asyncio.sleep(PAUSE_S)


async def look(*, pool: db.Pool, config: BillingConfig, log: FilteringBoundLogger) -> None:
    """Makes and drops what is due. What fails is logged and tried again an hour later."""
    parts: dict[str, Callable[[], Awaitable[object]]] = {
        "make": lambda: make(pool=pool, log=log),
        "drop_usage": lambda: drop_usage(pool=pool, config=config, log=log),
        "prune_holds": lambda: prune_holds(pool=pool, config=config, log=log),
        "forget_batches": lambda: forget_batches(pool=pool, log=log),
    }
    for part, run in parts.items():
        try:
            await run()
        except (TollbridgeError, store.DatabaseError) as error:
            log.error("partitions_not_kept", part=part, reason=str(error))


async def make(*, pool: db.Pool, log: FilteringBoundLogger) -> None:
    """Makes what is missing of the next days."""
    async with db.transaction(pool) as connection:
        made = await store.make_partitions(connection, days=DAYS_AHEAD)
        missing = await store.missing_partitions(connection, days=DAYS_AHEAD)
    if made:
        log.info("partitions_made", count=made)
    if missing:
        log.error("partitions_missing", count=missing)


async def drop_usage(*, pool: db.Pool, config: BillingConfig, log: FilteringBoundLogger) -> int:
    """Drops days of the log that are too old, a transaction each; returns how many steps did something."""

    async def step(connection: db.Connection) -> int:
        return await store.drop_usage(connection, kept_days=config.usage_kept_days, limit=STEP_ROWS)

    return await _steps(step, pool=pool, log=log, what="usage")


async def prune_holds(*, pool: db.Pool, config: BillingConfig, log: FilteringBoundLogger) -> int:
    """The same for holds that resolved long ago."""

    async def step(connection: db.Connection) -> int:
        return await store.prune_holds(connection, kept_days=config.holds_kept_days, limit=STEP_ROWS)

    return await _steps(step, pool=pool, log=log, what="holds")


async def forget_batches(*, pool: db.Pool, log: FilteringBoundLogger) -> int:
    """The same for the ids of batches: a spender asks about one for seconds."""
    below = uuid7_at(time.time_ns() // 1_000_000 - BATCHES_KEPT_MS)

    async def step(connection: db.Connection) -> int:
        return await batch_store.forget(connection, below=below, limit=STEP_ROWS)

    return await _steps(step, pool=pool, log=log, what="batches")


async def _steps(
    step: Callable[[db.Connection], Awaitable[int]], *, pool: db.Pool, log: FilteringBoundLogger, what: str
) -> int:
    steps = 0
    for _ in range(MAX_STEPS):
        async with db.transaction(pool) as connection:
            dropped = await step(connection)
        if not dropped:
            break
        steps += 1
    if steps:
        log.info("old_rows_dropped", what=what, steps=steps)
    return steps
