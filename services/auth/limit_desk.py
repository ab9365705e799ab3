"""Leases of limits over PostgreSQL: each method is one transaction of `limit_store`'s statements."""

import uuid
from collections.abc import Sequence

from chassis import db
from services.auth import limit_store
from services.auth.limit_store import Page
from services.auth.limit_windows import Outcome, Statement, settle

TTL_S = 30.0
RENEW_IN_S = TTL_S / 3


class LimitDesk:
    """What spenders of limits say and ask."""

    def __init__(self, *, pool: db.Pool) -> None:
        self._pool = pool

    async def lease(
        self, said: Sequence[Statement], *, spender: uuid.UUID, subject: uuid.UUID, since: int, number: int
    ) -> list[Outcome]:
        """Settles what one spender says about one subject. Raises UNAVAILABLE."""

        async def work(connection: db.Connection) -> list[Outcome]:
            found = await limit_store.read_books(
                connection, spender=spender, subject=subject, kinds=[one.kind for one in said]
            )
            outcomes = [settle(found.books[one.kind], one, since=since, number=number) for one in said]
            new = [one for one in outcomes if one.is_new]
            if new:
                await limit_store.write(connection, new, spender=spender, subject=subject, found=found)
            return outcomes

        return await db.in_transaction(self._pool, work)

    async def state(self, page: Page) -> None:
        """Takes a page of a spender's statement. Raises UNAVAILABLE."""
        await db.in_transaction(self._pool, lambda connection: limit_store.state(connection, page))

    async def end(self, spender: uuid.UUID) -> None:
        """Frees all that a spender held that is over. Raises UNAVAILABLE."""
        await db.in_transaction(self._pool, lambda connection: limit_store.end_spender(connection, spender))
