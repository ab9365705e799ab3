"""SQL of spend caps: their accounts, and grants of holds that they bind.

Capped grants that wait together are one transaction, decided by `Books`. Locks are taken as everywhere: accounts, then
cap accounts, then holds. Lists of cap ids travel as texts with blanks between, since unnest() would flatten them.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from chassis.db import Connection
from services.billing import array_sql
from services.billing.holding.caps import Cap, CapAccount
from services.billing.holding.holds import Hold

_COLUMNS = "id, cap, spent, held, overrun"
_OPEN = """
    INSERT INTO billing.cap_accounts (id, cap)
    SELECT id, cap FROM unnest(%s::text[], %s::bigint[]) AS n(id, cap) ORDER BY id ON CONFLICT DO NOTHING
"""
# What a hold counts in never changes, so it may be read before the hold is locked.
_LOCK = f"""
    SELECT {_COLUMNS} FROM billing.cap_accounts
    WHERE id = ANY(%s::text[] || ARRAY(SELECT unnest(cap_ids) FROM billing.holds WHERE id = ANY(%s)))
    ORDER BY id FOR NO KEY UPDATE
"""
_SAVE = """
    UPDATE billing.cap_accounts AS c SET cap = n.cap, spent = n.spent, held = n.held, overrun = n.overrun
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS n(id, cap, spent, held, overrun)
    WHERE c.id = n.id
"""
_ADD_HOLDS = """
    INSERT INTO billing.holds (id, customer_id, kind, spender, amount, stated, request_id, key_id, cap_ids, expires_at)
    SELECT id, customer_id, kind, spender, amount, amount, request_id, key_id, string_to_array(cap_ids, ' '),
        CASE WHEN deadline_us > 0 THEN 'epoch'::timestamptz + deadline_us * interval '1 microsecond'
            ELSE now() + %s * interval '1 second' END
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::uuid[], %s::text[], %s::text[],
        %s::bigint[]) AS n(id, customer_id, kind, spender, amount, request_id, key_id, cap_ids, deadline_us)
"""
_READ = f"SELECT {_COLUMNS} FROM billing.cap_accounts WHERE id = ANY(%s)"


def joined(cap_ids: Sequence[str]) -> str | None:
    """Ids as one value of an array that unnest() takes; None for none."""
    return " ".join(cap_ids) or None


async def send_lock(
    connection: Connection, *, caps: Iterable[Cap], cap_ids: Iterable[str], hold_ids: Sequence[UUID]
) -> AsyncCursor[TupleRow]:
    """Opens the accounts of `caps` that are not there, and locks them, those of `cap_ids`, and those of the holds."""
    asked = {cap.id: cap.amount_nano_usd for cap in caps}
    if asked:
        await connection.execute(_OPEN, (list(asked), list(asked.values())))
    return await connection.execute(_LOCK, (array_sql.texts([*asked, *cap_ids]), array_sql.ids(hold_ids)))


async def read_locked(cursor: AsyncCursor[TupleRow]) -> list[CapAccount]:
    """What `send_lock` answers."""
    return [_account(row) for row in await cursor.fetchall()]


async def lock(connection: Connection, cap_ids: Sequence[str]) -> list[CapAccount]:
    """Locks these accounts."""
    return await read_locked(await send_lock(connection, caps=(), cap_ids=cap_ids, hold_ids=[]))


async def save(connection: Connection, rows: Sequence[CapAccount]) -> None:
    """Writes back rows that are locked."""
    await connection.execute(_SAVE, [list(column) for column in zip(*map(dataclasses.astuple, rows), strict=True)])


async def add_holds(
    connection: Connection, holds: Sequence[Hold], *, deadlines_us: Sequence[int], lease_lives_s: float
) -> None:
    """Stores new holds; a deadline of 0 lets one live as long as a lease."""
    columns: list[object] = [
        [hold.id for hold in holds],
        [hold.customer_id for hold in holds],
        [str(hold.kind) for hold in holds],
        [hold.spender for hold in holds],
        [hold.amount_nano_usd for hold in holds],
        [hold.request_id for hold in holds],
        [hold.key_id for hold in holds],
        [joined(hold.cap_ids) for hold in holds],
        list(deadlines_us),
    ]
    await connection.execute(_ADD_HOLDS, [lease_lives_s, *columns])


async def now(connection: Connection) -> datetime.datetime:
    """When this transaction began, by the database's clock."""
    cursor = await connection.execute("SELECT now()")
    row = await cursor.fetchone()
    if row is None:
        raise LookupError("the database does not tell the time")
    began: datetime.datetime = row[0]
    return began


async def read(connection: Connection, cap_ids: Sequence[str]) -> dict[str, CapAccount]:
    """Accounts as committed now, without a lock: to be shown, never to decide by."""
    cursor = await connection.execute(_READ, (list(cap_ids),))
    rows = [_account(row) for row in await cursor.fetchall()]
    return {row.id: row for row in rows}


def _account(row: TupleRow) -> CapAccount:
    id_, cap, spent, held, overrun = row
    return CapAccount(id=id_, cap_nano_usd=cap, spent_nano_usd=spent, held_nano_usd=held, overrun_nano_usd=overrun)
