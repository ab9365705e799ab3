"""What waits: usage on the bus, transfers for it, dead letters for an operator, holds for their end; and how full the
streams are. Looked at for the metrics."""

import asyncio
import json
from datetime import datetime

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Bus
from chassis.errors import TollbridgeError
from services.billing import events, letter_store, outbox_store, store
from services.billing.figures import Waiting
from services.billing.holding import hold_store

LOOK_S = 5.0
HOLD_KINDS = ("lease", "task", "exact")


class BacklogWatch:
    """The loop that looks. Its owner runs `run()` as a task. What can't be seen stays as it was."""

    def __init__(self, *, pool: db.Pool, bus: Bus, waiting: Waiting, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._bus = bus
        self._waiting = waiting
        self._log = log

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            for look in (self.look_at_bus, self.look_at_streams, self.look_at_books):
                try:
                    await look()
                except (TollbridgeError, store.DatabaseError) as error:
                    self._log.info("backlog_not_read", reason=str(error))
            await asyncio.sleep(LOOK_S)

    async def look_at_bus(self) -> None:
        """Raises UNAVAILABLE."""
        self._waiting.usage_lag.set(await self._bus.lag(events.APPLY_USAGE))

    async def look_at_streams(self) -> None:
        """How much they hold, and how far back they reach. Raises UNAVAILABLE."""
        for spec in events.STREAMS:
            found = json.loads(await self._bus.stream_info(spec.name))
            if "error" in found:  # it is not made yet
                continue
            config, state = found["config"], found["state"]
            self._waiting.stream_bytes.labels(spec.name).set(state["bytes"])
            self._waiting.stream_max_bytes.labels(spec.name).set(config["max_bytes"])
            self._waiting.stream_max_age.labels(spec.name).set(config["max_age"] / 1e9)
            first, now = (datetime.fromisoformat(each) for each in (state["first_ts"], found["ts"]))
            reach_s = (now - first).total_seconds() if state["messages"] else 0.0
            self._waiting.stream_reach.labels(spec.name).set(reach_s)

    async def look_at_books(self) -> None:
        """Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as connection:
            letters = await letter_store.count_open(connection)
            holds = await hold_store.open_by_kind(connection)
            leaving_s = await outbox_store.oldest_waits_s(connection)
        self._waiting.outbox_oldest.set(leaving_s)
        self._waiting.open_letters.set(letters)
        for kind in HOLD_KINDS:
            count, held_nano_usd = holds.get(kind, (0, 0))
            self._waiting.holds.labels(kind).set(count)
            self._waiting.held.labels(kind).set(held_nano_usd)
