"""SQL of the batches of usage events that are applied: which of them were, each as one and whole."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from chassis.db import Connection
from services.billing import array_sql

_ADD = "INSERT INTO billing.applied_batches (id) SELECT unnest(%s::uuid[]) ON CONFLICT DO NOTHING"
_FOUND = "SELECT id FROM billing.applied_batches WHERE id = ANY(%s::uuid[])"
_FORGET = """
    DELETE FROM billing.applied_batches
    WHERE id IN (SELECT id FROM billing.applied_batches WHERE id < %s ORDER BY id LIMIT %s)
"""


async def add(connection: Connection, batch_ids: Iterable[UUID]) -> None:
    """Notes that every event of these batches is applied, in the transaction that applies them."""
    await connection.execute(_ADD, (array_sql.ids(sorted(batch_ids)),))


async def applied(connection: Connection, batch_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these batches that are."""
    cursor = await connection.execute(_FOUND, (array_sql.ids(batch_ids),))
    return {row[0] for row in await cursor.fetchall()}


async def forget(connection: Connection, *, below: UUID, limit: int) -> int:
    """Drops so many of what is older than this id; returns how many."""
    cursor = await connection.execute(_FORGET, (below, limit))
    return cursor.rowcount
