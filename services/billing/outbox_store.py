"""SQL of the outbox: which transfers wait for the bus, in the order they were committed."""

from collections.abc import Iterable, Sequence

import msgspec

from chassis.db import Connection
from services.billing import array_sql, store
from services.billing.ledger import Transfer
from services.billing.written import Memory, Written

# One replica sends at a time; another's try ends with nothing taken.
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('billing.outbox'))"
_OLDEST = """
    SELECT id, transfer_ids[1], cardinality(transfer_ids) FROM (
        SELECT id, transfer_ids, sum(cardinality(transfer_ids)) OVER (ORDER BY id) - cardinality(transfer_ids) AS ahead
        FROM (SELECT id, transfer_ids FROM billing.outbox ORDER BY id LIMIT %(limit)s) AS oldest
    ) AS o WHERE ahead < %(limit)s ORDER BY id
"""
# Row by row from the index: the planner would read all transfers of a ledger that is small or that it thinks so.
_READ = f"""
    SELECT (extract(epoch FROM created_at) * 1000000)::bigint, o.id AS place, t.* FROM billing.outbox o
    CROSS JOIN unnest(o.transfer_ids) WITH ORDINALITY AS leaving (id, n)
    CROSS JOIN LATERAL (
        SELECT {store.TRANSFER_COLUMNS}, created_at FROM billing.transfers WHERE id = leaving.id OFFSET 0
    ) AS t
    WHERE o.id = ANY(%s::bigint[]) ORDER BY o.id, leaving.n
"""

_WAITS_S = """
    SELECT extract(epoch FROM clock_timestamp() - t.created_at)
    FROM (SELECT transfer_ids[1] AS id FROM billing.outbox ORDER BY id LIMIT 1) AS o
    CROSS JOIN LATERAL (SELECT created_at FROM billing.transfers WHERE id = o.id OFFSET 0) AS t
"""


class Leaving(msgspec.Struct, frozen=True):
    """A place in the outbox, and the transfers of one statement that have it together."""

    place: int
    written: Written


async def take(connection: Connection, memory: Memory, *, limit: int) -> list[Leaving]:
    """The oldest transfers that have not left; nothing when another replica is sending them (until it commits).

    What one statement wrote leaves together, so it may be more than `limit`; less only if nothing else waits.
    """
    row = await (await connection.execute(_LOCK)).fetchone()
    if not row or not row[0]:
        return []
    rows = await (await connection.execute(_OLDEST, {"limit": limit})).fetchall()
    found = {place: memory.take(first, count) for place, first, count in rows}
    read = await _read(connection, [place for place, written in found.items() if written is None])
    return [Leaving(place, written or read[place]) for place, written in found.items()]


async def _read(connection: Connection, places: Sequence[int]) -> dict[int, Written]:
    if not places:
        return {}
    transfers: dict[int, list[Transfer]] = {place: [] for place in places}
    created_at_us = dict.fromkeys(places, 0)
    for row in await (await connection.execute(_READ, (array_sql.numbers(places),))).fetchall():
        created_at_us[row[1]] = row[0]
        transfers[row[1]].append(store.transfer(row[2:]))
    return {place: Written(created_at_us[place], transfers[place]) for place in places}


async def oldest_waits_s(connection: Connection) -> float:
    """For how long the one that is to leave next has waited; 0 when nothing waits."""
    row = await (await connection.execute(_WAITS_S)).fetchone()
    return float(row[0]) if row else 0.0


async def forget(connection: Connection, leaving: Iterable[Leaving]) -> None:
    """Drops what has left."""
    places = array_sql.numbers(each.place for each in leaving)
    await connection.execute("DELETE FROM billing.outbox WHERE id = ANY(%s::bigint[])", (places,))
