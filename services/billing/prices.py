"""Price versions, kept for ever: from memory, from our own table, else from router, who is asked once.

A price is believed only when its content has the hash that names it. While router can't be asked the answer is "not
now", and the events that need the price wait: a guessed price is a wrong charge.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from pricing.prices import PriceVersion
from services.billing import store
from services.billing.charges import price_version
from tollbridge.router.v1 import router_pb2

AskRouter = Callable[[str], Awaitable[router_pb2.PriceVersion]]
"""Fetches a price version by its id. Raises TollbridgeError."""

MAX_KEPT = 20_000
MAX_ASKED_AT_ONCE = 64


class PriceBook:
    """What prices billing knows. Bounded memory; the oldest are forgotten there, never in the table."""

    def __init__(self, *, pool: db.Pool, ask_router: AskRouter, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._ask_router = ask_router
        self._log = log
        self._kept: dict[str, PriceVersion] = {}

    async def find(self, version_ids: Iterable[str]) -> dict[str, PriceVersion]:
        """Those of these prices that can be had now. Raises UNAVAILABLE when our own table can't be read."""
        wanted = set(version_ids)
        missing = sorted(wanted - self._kept.keys())[:MAX_ASKED_AT_ONCE]
        if missing:
            await asyncio.gather(*(self._look_up(version_id) for version_id in missing))
        return {version_id: self._kept[version_id] for version_id in wanted if version_id in self._kept}

    async def stored(self, version_ids: Iterable[str]) -> dict[str, PriceVersion]:
        """Those of these prices that a charge went by once; router is not asked. Raises UNAVAILABLE."""
        wanted = set(version_ids)
        for version_id in wanted - self._kept.keys():
            await self._read(version_id)
        return {version_id: self._kept[version_id] for version_id in wanted if version_id in self._kept}

    async def _read(self, version_id: str) -> bool:
        async with db.transaction(self._pool) as connection:
            content = await store.read_price(connection, version_id)
        if content is None:
            return False
        self._keep(version_id, price_version(router_pb2.PriceVersion.FromString(content)))
        return True

    async def _look_up(self, version_id: str) -> None:
        if await self._read(version_id):
            return
        try:
            message = await self._ask_router(version_id)
            price = price_version(message)
        except (TollbridgeError, ValueError) as error:
            self._log.warning("price_unknown", price_version=version_id, reason=str(error))
            return
        if price.id != version_id:
            self._log.error("price_has_another_hash", price_version=version_id, computed=price.id)
            return
        async with db.transaction(self._pool) as connection:
            await store.keep_price(connection, version_id, message.SerializeToString())
        self._keep(version_id, price)

    def _keep(self, version_id: str, price: PriceVersion) -> None:
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[version_id] = price
