"""How often requests were refused, by key, code and minute: edges count, and this keeps what they say for 30 days.

An edge says its totals, so that saying them twice, or in another order, changes nothing.
"""

import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence

from chassis import db
from services.auth import refusal_store
from services.auth.refusal_store import Refused, Wanted

KEPT_MINUTES = 30 * 24 * 60
FORGOTTEN_AT_ONCE = 10_000
PAGE = 50
MAX_PAGE = 200


class Refusals:
    """The counts over PostgreSQL; every method is one transaction and raises UNAVAILABLE without a database."""

    def __init__(self, *, pool: db.Pool, now_s: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._now_s = now_s

    async def record(self, spender: uuid.UUID, counts: Sequence[Refused]) -> None:
        """Keeps an edge's totals; none becomes less."""

        async def work(conn: db.Connection) -> None:
            await refusal_store.keep_totals(conn, spender, counts)

        await db.in_transaction(self._pool, work)

    async def page(self, wanted: Wanted) -> tuple[list[Refused], bool]:
        """Sums over edges, and whether there are more."""
        limit = min(wanted.limit or PAGE, MAX_PAGE)

        async def work(conn: db.Connection) -> list[Refused]:
            return await refusal_store.sums(conn, dataclasses.replace(wanted, limit=limit + 1))

        found = await db.in_transaction(self._pool, work)
        return found[:limit], len(found) > limit

    async def forget_old(self) -> None:
        """Deletes what is older than 30 days. Raises UNAVAILABLE."""
        oldest = int(self._now_s()) // 60 - KEPT_MINUTES

        async def work(conn: db.Connection) -> int:
            return await refusal_store.forget(conn, before_minute=oldest, limit=FORGOTTEN_AT_ONCE)

        while await db.in_transaction(self._pool, work) == FORGOTTEN_AT_ONCE:
            continue
