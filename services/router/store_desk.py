"""The slot desk and the price shelf over PostgreSQL: each method is one transaction of `store`'s statements.

Slots taken and given back at the same time share one (`slot_batches`).
"""

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Collection

import structlog
from psycopg.errors import UniqueViolation

from chassis.db import Connection, Pool, in_transaction
from chassis.errors import Code, TollbridgeError
from pricing.prices import PriceVersion
from services.router import store
from services.router.attempts import SILENT_S, Page
from services.router.listening import Listening
from services.router.registry import Registry
from services.router.slot_batches import Batch, Done, SlotBatches, Take
from services.router.slot_desk import Stated

SWEEP_EVERY_S = 5.0
IDLE_MS = 2500
"""A replica that is paused in a transaction keeps its locks no longer: before its calls come to its neighbour."""
MAX_KEPT_PRICES = 1000
_TURN_TRIES = 3


class PostgresDesk:
    """Slots (`slot_desk.SlotDesk`) and price versions (`decide.PriceShelf`)."""

    def __init__(self, *, pool: Pool, listening: Listening) -> None:
        self._pool, self._listening = pool, listening
        self._batches = SlotBatches(run=self._turn)
        self._prices: OrderedDict[str, PriceVersion] = OrderedDict()
        self._log = structlog.get_logger()

    async def take(self, *, attempt_id: str, request_id: str, account_id: str, spender: str) -> str | None:
        """See SlotDesk."""
        return await self._batches.take(
            Take(attempt_id=attempt_id, request_id=request_id, account_id=account_id, spender=spender)
        )

    async def release(self, attempt_ids: Collection[str]) -> dict[str, str]:
        """See SlotDesk."""
        return await self._batches.release(attempt_ids)

    async def _turn(self, batch: Batch) -> Done:
        for _ in range(_TURN_TRIES):
            try:
                return await in_transaction(self._pool, lambda connection: store.turn(connection, batch), alone=True)
            except UniqueViolation:
                continue  # a twin has just taken one: the next look finds it
        raise TollbridgeError(Code.UNAVAILABLE, "the slot is being taken elsewhere", retry_after_s=1)

    async def state(self, page: Page) -> None:
        """See SlotDesk."""
        await in_transaction(self._pool, lambda connection: store.state_spender(connection, page))

    async def stated(self, spenders: Collection[str]) -> Stated:
        """See SlotDesk."""
        found = await in_transaction(
            self._pool, lambda connection: store.read_statements(connection, spenders, silent_s=SILENT_S)
        )
        if self._listening.goes_on() < SILENT_S:
            return dataclasses.replace(found, silent=frozenset())
        return found

    async def in_use(self) -> dict[str, int]:
        """Slots taken by account, over all replicas. Raises UNAVAILABLE."""
        return await in_transaction(self._pool, store.slots_in_use)

    async def adopt(self, registry: Registry) -> None:
        """Stores a config's price versions and slots, before anything is decided by it. Raises UNAVAILABLE."""

        async def work(connection: Connection) -> None:
            await store.store_prices(connection, registry.price_versions.values())
            await store.store_accounts(connection, registry.slots)

        await in_transaction(self._pool, work)

    async def price(self, price_id: str) -> PriceVersion:
        """A price version, of this config or of any before it. Raises NOT_FOUND, UNAVAILABLE."""
        kept = self._prices.get(price_id)
        if kept is not None:
            return kept
        price = await in_transaction(self._pool, lambda connection: store.read_price(connection, price_id))
        if price is None:
            raise TollbridgeError(Code.NOT_FOUND, "There is no such price version.", details={"param": "id"})
        self._prices[price_id] = price
        while len(self._prices) > MAX_KEPT_PRICES:
            self._prices.popitem(last=False)
        return price

    async def sweep(self) -> None:
        """Frees the slots of silent spenders until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            await self.sweep_now()

    async def sweep_now(self) -> None:
        """Frees the slots of silent spenders, as far as this replica can tell who is silent.

        Nobody is called silent before a whole lease in which they could have spoken: after the start, after the
        database was away, and after this process stood still.
        """
        try:
            await in_transaction(self._pool, store.count_accounts)
            if self._listening.goes_on() < SILENT_S:
                return
            freed = await in_transaction(
                self._pool, lambda connection: store.expire_silent(connection, silent_s=SILENT_S)
            )
        except TollbridgeError as error:
            self._listening.broke()
            self._log.warning("slot_sweep_failed", code=error.code.value)
            return
        if freed:
            self._log.warning("silent_spenders_slots_freed", slots=freed)
