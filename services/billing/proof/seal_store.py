"""SQL of the seals: the queue of transfers that wait, the closed batches, and the rows as they are sealed."""

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow, dict_row

from chassis.db import Connection
from services.billing import arrays
from services.billing.proof.seals import Row, Seal, canonical

FETCH_SEALS = 20
# One replica seals at a time; another's try ends with nothing taken.
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('billing.seals'))"
_TAKE = """
    DELETE FROM billing.unsealed WHERE transfer_id IN (
        SELECT transfer_id FROM billing.unsealed ORDER BY transfer_id LIMIT %s)
    RETURNING transfer_id
"""
_COLUMNS = "n, previous, hash, transfer_ids, emptied, sealed_at"
_NEWEST = f"SELECT {_COLUMNS} FROM billing.ledger_seals ORDER BY n DESC LIMIT 1"
_AT = f"SELECT {_COLUMNS} FROM billing.ledger_seals WHERE n = %s"
_ALL = f"SELECT {_COLUMNS} FROM billing.ledger_seals ORDER BY n"
_ADD = """
    INSERT INTO billing.ledger_seals (n, previous, hash, transfer_ids, emptied) VALUES (%s, %s, %s, %s::uuid[], %s)
"""
_ROWS = """
    SELECT id, amount, balance_after, array_to_string(cap_ids, ' ') AS cap_ids,
        (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us, credit, customer_id, debit, event_id, kind,
        leg, reason, request_id::text, reverses::text, version
    FROM billing.transfers WHERE id = ANY(%s::uuid[])
"""
_UNSEALED = """
    SELECT t.id FROM billing.transfers t
    LEFT JOIN (SELECT unnest(transfer_ids) AS id FROM billing.ledger_seals) s ON s.id = t.id
    LEFT JOIN billing.unsealed w ON w.transfer_id = t.id
    WHERE s.id IS NULL AND w.transfer_id IS NULL
"""
_REMOVED = """
    SELECT w.transfer_id FROM billing.unsealed w LEFT JOIN billing.transfers t ON t.id = w.transfer_id
    WHERE t.id IS NULL
"""


async def take(connection: Connection, *, limit: int) -> list[UUID]:
    """Takes the oldest waiting transfers out of the queue; none when another replica is sealing."""
    cursor = await connection.execute(_LOCK)
    row = await cursor.fetchone()
    if not row or not row[0]:
        return []
    cursor = await connection.execute(_TAKE, (limit,))
    return sorted(row[0] for row in await cursor.fetchall())


async def rows(connection: Connection, ids: Sequence[UUID]) -> list[Row]:
    """These transfers, in no order."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_ROWS, (arrays.ids(ids),))
        return [_row(found) for found in await cursor.fetchall()]


async def newest(connection: Connection) -> Seal | None:
    """The last seal; under the lock of `take` nobody adds another."""
    cursor = await connection.execute(_NEWEST)
    row = await cursor.fetchone()
    return _seal(row) if row else None


async def add(
    connection: Connection, *, n: int, previous: bytes, hash_: bytes, transfer_ids: Sequence[UUID], emptied: bool
) -> None:
    """Closes a batch."""
    await connection.execute(_ADD, (n, previous, hash_, arrays.ids(transfer_ids), emptied))


def each(connection: psycopg.Connection) -> Iterator[tuple[Seal, Mapping[UUID, Row]]]:
    """Every seal in order, with those of its rows that there are; a few at a time."""
    with connection.cursor("seals") as cursor, connection.cursor(row_factory=dict_row) as reader:
        cursor.execute(_ALL)
        while seals := [_seal(found) for found in cursor.fetchmany(FETCH_SEALS)]:
            wanted = [id_ for seal in seals for id_ in seal.transfer_ids]
            read = {row.id: row for row in map(_row, reader.execute(_ROWS, (arrays.ids(wanted),)).fetchall())}
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


def _row(found: Mapping[str, object]) -> Row:
    id_, created_at_us = found["id"], found["created_at_us"]
    return Row(id=id_, created_at_us=created_at_us, text=canonical(found))  # type: ignore[arg-type]  # as the table has them
