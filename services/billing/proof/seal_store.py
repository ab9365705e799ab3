"""SQL of the seals: the queue of transfers that wait, the closed batches, and the rows as they are sealed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow, dict_row

from chassis.db import Connection
from services.billing import array_sql
from services.billing.proof.seals import Row, Seal, canonical, canonical_transfer
from services.billing.written import Memory, Written

FETCH_SEALS = 20
# One replica seals at a time; another's try ends with nothing taken.
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('billing.seals'))"
_COLUMNS = "n, previous, hash, transfer_ids, emptied, sealed_at"
_NEWEST = f"SELECT {_COLUMNS} FROM billing.ledger_seals ORDER BY n DESC LIMIT 1"
_LAST = "SELECT n, hash FROM billing.ledger_seals ORDER BY n DESC LIMIT 1"
_AT = f"SELECT {_COLUMNS} FROM billing.ledger_seals WHERE n = %s"
_ALL = f"SELECT {_COLUMNS} FROM billing.ledger_seals ORDER BY n"
_ADD = """
    INSERT INTO billing.ledger_seals (n, previous, hash, transfer_ids, emptied) VALUES (%s, %s, %s, %s, %s)
"""
_TRANSFER = """
    id::text, amount::text, balance_after::text, array_to_string(cap_ids, ' ') AS cap_ids,
    (extract(epoch FROM created_at) * 1000000)::bigint::text AS created_at_us, credit, customer_id, debit, event_id,
    kind, leg::text, reason, request_id::text, reverses::text, version::text
"""
_ROWS = f"SELECT {_TRANSFER} FROM billing.transfers WHERE id = ANY(%s::uuid[])"
_OLDEST = """
    SELECT id, transfer_ids[1], cardinality(transfer_ids) FROM (
        SELECT id, transfer_ids, sum(cardinality(transfer_ids)) OVER (ORDER BY id) - cardinality(transfer_ids) AS ahead
        FROM (SELECT id, transfer_ids FROM billing.unsealed ORDER BY id LIMIT %(limit)s) AS oldest
    ) AS counted WHERE ahead < %(limit)s ORDER BY id
"""
# Row by row from the index: the planner would read all transfers of a ledger that is small or that it thinks so.
_READ = f"""
    SELECT queue.id AS place, waiting.id AS waiting, found.* FROM billing.unsealed AS queue
    CROSS JOIN unnest(transfer_ids) AS waiting (id)
    LEFT JOIN LATERAL (SELECT {_TRANSFER} FROM billing.transfers t WHERE t.id = waiting.id OFFSET 0) AS found ON true
    WHERE queue.id = ANY(%s::bigint[])
"""
_FORGET = "DELETE FROM billing.unsealed WHERE id = ANY(%s::bigint[])"
_UNSEALED = """
    SELECT t.id FROM billing.transfers t
    LEFT JOIN (SELECT unnest(transfer_ids) AS id FROM billing.ledger_seals) s ON s.id = t.id
    LEFT JOIN (SELECT unnest(transfer_ids) AS id FROM billing.unsealed) w ON w.id = t.id
    WHERE s.id IS NULL AND w.id IS NULL
"""
_REMOVED = """
    SELECT w.id FROM (SELECT unnest(transfer_ids) AS id FROM billing.unsealed) w
    LEFT JOIN billing.transfers t ON t.id = w.id WHERE t.id IS NULL
"""


async def take(connection: Connection, memory: Memory, *, limit: int) -> list[tuple[UUID, str | None]]:
    """Takes the oldest waiting transfers out of the queue, in order: ids and canonical texts, None for a removed one.

    What one statement wrote leaves together, so it may be more than `limit`. None when another replica is sealing.
    """
    row = await (await connection.execute(_LOCK)).fetchone()
    if not row or not row[0]:
        return []
    rows = await (await connection.execute(_OLDEST, {"limit": limit})).fetchall()
    found = {place: memory.take(first, count) for place, first, count in rows}
    read = await _read(connection, [place for place, written in found.items() if written is None])
    await connection.execute(_FORGET, (array_sql.numbers(found),))
    return [each for place, written in found.items() for each in (_texts(written) if written else read[place])]


async def _read(connection: Connection, places: Sequence[int]) -> dict[int, list[tuple[UUID, str | None]]]:
    read: dict[int, list[tuple[UUID, str | None]]] = {place: [] for place in places}
    if places:
        async with connection.cursor(row_factory=dict_row) as reader:
            await reader.execute(_READ, (array_sql.numbers(places),))
            for found in await reader.fetchall():
                place, id_ = found.pop("place"), found.pop("waiting")
                read[place].append((id_, canonical(found) if found["id"] else None))
    return read


def _texts(written: Written) -> list[tuple[UUID, str | None]]:
    return [(each.id, canonical_transfer(each, created_at_us=written.created_at_us)) for each in written.transfers]


async def newest(connection: Connection) -> tuple[int, bytes] | None:
    """The last seal's number and hash; under the lock of `take` nobody adds another."""
    row = await (await connection.execute(_LAST)).fetchone()
    return (row[0], bytes(row[1])) if row else None


async def add(
    connection: Connection, *, n: int, previous: bytes, hash_: bytes, transfer_ids: Iterable[UUID], emptied: bool
) -> None:
    """Closes a batch."""
    await connection.execute(_ADD, (n, previous, hash_, array_sql.ids(transfer_ids), emptied))


def each(connection: psycopg.Connection) -> Iterator[tuple[Seal, Mapping[UUID, Row]]]:
    """Every seal in order, with those of its rows that there are; a few at a time."""
    with connection.cursor("seals") as cursor, connection.cursor(row_factory=dict_row) as reader:
        cursor.execute(_ALL)
        while seals := [_seal(found) for found in cursor.fetchmany(FETCH_SEALS)]:
            wanted = [id_ for seal in seals for id_ in seal.transfer_ids]
            read = {row.id: row for row in map(_row, reader.execute(_ROWS, (array_sql.ids(wanted),)).fetchall())}
            for seal in seals:
                yield seal, {id_: read[id_] for id_ in seal.transfer_ids if id_ in read}


def seal_at(connection: psycopg.Connection, n: int | None) -> Seal | None:
    """One seal; the newest when no number is given."""
    cursor = connection.execute(_NEWEST) if n is None else connection.execute(_AT, (n,))
    row = cursor.fetchone()
    return _seal(row) if row else None


def unsealed(connection: psycopg.Connection) -> Iterator[str]:
    """Transfers that no seal has and that don't wait for one, and some that waited and are gone."""
    yield from (f"transfer {id_} is in no seal" for (id_,) in connection.execute(_UNSEALED).fetchall())
    yield from (f"transfer {id_} was removed" for (id_,) in connection.execute(_REMOVED).fetchall())


def _seal(row: TupleRow) -> Seal:
    n, previous, hash_, transfer_ids, emptied, sealed_at = row
    return Seal(
        n=n,
        previous=bytes(previous),
        hash=bytes(hash_),
        transfer_ids=transfer_ids,
        emptied=emptied,
        sealed_at=sealed_at,
    )


def _row(found: Mapping[str, str]) -> Row:
    return Row(id=UUID(found["id"]), created_at_us=int(found["created_at_us"]), text=canonical(found))
