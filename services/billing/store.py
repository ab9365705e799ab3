"""SQL of the ledger: what a transaction locks and loads into `Books`, and how what changed goes back.

Every function takes the connection of the caller's transaction. Locks are taken in one order everywhere, accounts by
id, then cap accounts by id, then holds by id, so that two transactions can't wait for each other. Balances are read
only under their lock.
"""

import itertools
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from msgspec.structs import astuple
from psycopg.rows import TupleRow

from chassis.db import Connection
from chassis.ids import uuid7
from services.billing import array_sql, batch_store
from services.billing.books import Books
from services.billing.holding import cap_store
from services.billing.holding.caps import Cap
from services.billing.holding.holds import Hold, HoldKind, HoldState
from services.billing.ledger import Account, Transfer, TransferKind, UsageKind, UsageRow

DatabaseError = psycopg.Error
_number_of = operator.attrgetter("int")
_NO_ID = UUID(int=0)
_ROOM = (1 << 20) - 1
"""The last bits of a transaction's first id, from where its others are counted."""
REFUSED = (psycopg.IntegrityError, psycopg.DataError)
"""What the database says to rows that a constraint forbids: the ledger's last word, whatever the code believed."""

_LOCK_ACCOUNTS = """
    SELECT customer_id, credited, used, held, version, (extract(epoch FROM now()) * 1000000)::bigint
    FROM billing.ledger_accounts
    WHERE customer_id = ANY(%s) ORDER BY customer_id FOR NO KEY UPDATE
"""
_HOLD_COLUMNS = """id, customer_id, kind, spender, amount, captured, freed, stated, state, lapsed, pinned, request_id,
    key_id, (extract(epoch FROM granted_at) * 1000000)::bigint, (extract(epoch FROM expires_at) * 1000000)::bigint,
    cap_ids"""
_LOCK_HOLDS = f"SELECT {_HOLD_COLUMNS} FROM billing.holds WHERE id = ANY(%s::uuid[]) ORDER BY id FOR NO KEY UPDATE"
_HOLDS_OF_REQUEST = f"SELECT {_HOLD_COLUMNS} FROM billing.holds WHERE request_id = %s ORDER BY granted_at DESC LIMIT 1"
# One by one from the index: else the planner reads a whole day of the log while that is short or thought to be. And
# between the first and the last, which tells once, and not for each, that all other days have none of them.
_APPLIED = """
    SELECT u.request_id, u.kind FROM unnest(%s::uuid[]) AS asked (id)
    CROSS JOIN LATERAL (
        SELECT request_id, kind FROM billing.usage_events
        WHERE request_id = asked.id AND request_id BETWEEN %s AND %s OFFSET 0
    ) AS u
"""
TRANSFER_COLUMNS = """id, debit, credit, amount, kind, event_id, leg, reverses, request_id, reason, customer_id,
    version, balance_after, cap_ids"""

_SAVE_ACCOUNTS = """
    UPDATE billing.ledger_accounts AS a
    SET posted = n.credited - n.used, credited = n.credited, used = n.used, held = n.held, version = n.version
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
        AS n(customer_id, credited, used, held, version)
    WHERE a.customer_id = n.customer_id
"""
_SAVE_HOLDS = """
    UPDATE billing.holds AS h
    SET captured = n.captured, freed = n.freed, state = n.state, lapsed = n.lapsed, pinned = n.pinned,
        expires_at = 'epoch'::timestamptz + n.expires_at_us * interval '1 microsecond'
    FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::text[], %s::boolean[], %s::boolean[], %s::bigint[])
        AS n(id, captured, freed, state, lapsed, pinned, expires_at_us)
    WHERE h.id = n.id
"""
# Several unnest() in one SELECT go on together, row by row; in FROM each would first be written down whole.
_ADD_TRANSFERS = f"""
    INSERT INTO billing.transfers ({TRANSFER_COLUMNS})
    SELECT unnest(%s::uuid[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::bigint[]), unnest(%s::text[]),
        unnest(%s::text[]), unnest(%s::bigint[]), unnest(%s::uuid[]), unnest(%s::uuid[]), unnest(%s::text[]),
        unnest(%s::text[]), unnest(%s::bigint[]), unnest(%s::bigint[]), string_to_array(unnest(%s::text[]), ' ')
"""
_ADD_USAGE = """
    INSERT INTO billing.usage_events (request_id, kind, customer_id, key_id, model, operation, prompt_tokens,
        completion_tokens, charge, taken, overage, provider_cost, ended, recorded)
    SELECT unnest(%s::uuid[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]),
        unnest(%s::text[]), unnest(%s::bigint[]), unnest(%s::bigint[]), unnest(%s::bigint[]), unnest(%s::bigint[]),
        unnest(%s::bigint[]), unnest(%s::bigint[]), unnest(%s::text[]),
        substring(%s::bytea FROM unnest(%s::bigint[])::integer FOR unnest(%s::bigint[])::integer)
"""
_EVENT_STATES = """
    SELECT asked.n,
        EXISTS (SELECT FROM billing.usage_events u WHERE u.request_id = asked.request_id AND u.kind = asked.kind),
        ARRAY(SELECT recorded FROM billing.dead_letters d WHERE d.request_id = asked.request_id AND d.kind = asked.kind)
    FROM unnest(%s::uuid[], %s::text[]) WITH ORDINALITY AS asked(request_id, kind, n) ORDER BY asked.n
"""


_DROP_USAGE = "SELECT billing.drop_usage(%s, %s)"
_PRUNE_HOLDS = "SELECT billing.prune_holds(%s, %s)"
_MISSING_PARTITIONS = """
    SELECT count(*) FROM generate_series(0, %s) AS ahead WHERE to_regclass(
        'billing.usage_events_' || to_char((now() AT TIME ZONE 'UTC')::date + ahead, 'YYYYMMDD')) IS NULL
"""


async def open_account(connection: Connection, customer_id: str) -> bool:
    """Makes the account's row; False when it was there."""
    cursor = await connection.execute(
        "INSERT INTO billing.ledger_accounts (customer_id) VALUES (%s) ON CONFLICT DO NOTHING", (customer_id,)
    )
    return cursor.rowcount == 1


async def read_account(connection: Connection, customer_id: str) -> Account | None:
    """An account as committed now, without a lock: to be shown, never to decide by."""
    cursor = await connection.execute(
        "SELECT customer_id, credited, used, held, version FROM billing.ledger_accounts WHERE customer_id = %s",
        (customer_id,),
    )
    row = await cursor.fetchone()
    return _account(row) if row else None


async def lock_books(
    connection: Connection,
    *,
    customer_ids: Iterable[str],
    hold_ids: Iterable[UUID] = (),
    request_ids: Collection[UUID] = (),
    caps: Iterable[Cap] = (),
) -> Books:
    """Locks accounts, holds and the cap accounts of both `caps` (opening what is not there) and holds.

    Tells also which usage events of these requests are applied. One round trip.
    """
    hold_ids = sorted(set(hold_ids))
    first, last = (pick(request_ids, key=_number_of, default=_NO_ID) for pick in (min, max))
    async with connection.pipeline():
        accounts = await connection.execute(_LOCK_ACCOUNTS, (array_sql.texts(sorted(set(customer_ids))),))
        applied = await connection.execute(_APPLIED, (array_sql.ids(request_ids), first, last))
        cap_rows = await cap_store.send_lock(connection, caps=caps, cap_ids=(), hold_ids=hold_ids)
        holds = await connection.execute(_LOCK_HOLDS, (array_sql.ids(hold_ids),))
    locked = await accounts.fetchall()
    return Books(
        new_id=_counting(max(1, len(request_ids))),
        now_us=locked[0][5] if locked else 0,
        accounts=[_account(row[:5]) for row in locked],
        holds=[_hold(row) for row in await holds.fetchall()],
        caps=await cap_store.read_locked(cap_rows),
        applied=[(request_id, UsageKind(kind)) for request_id, kind in await applied.fetchall()],
    )


async def save_books(
    connection: Connection, books: Books, *, usage: Sequence[UsageRow] = (), batches: Sequence[UUID] = ()
) -> None:
    """Writes back what changed in books whose rows are locked, with the log lines that go with it. One round trip.

    A trigger puts new transfers into the outbox. `batches` are those whose events are all applied now, or were before.
    """
    accounts = [books.accounts[customer_id] for customer_id in sorted(books.changed_accounts)]
    caps = [books.caps.rows[cap_id] for cap_id in sorted(books.caps.changed)]
    holds = [books.holds[hold_id] for hold_id in sorted(books.changed_holds)]
    async with connection.pipeline():
        if batches:
            await batch_store.add(connection, batches)
        if usage:
            await connection.execute(_ADD_USAGE, _usage_columns(usage))
        if accounts:
            await connection.execute(_SAVE_ACCOUNTS, _account_columns(accounts))
        if caps:
            await cap_store.save(connection, caps)
        if holds:
            await connection.execute(_SAVE_HOLDS, _hold_columns(holds))
        if books.transfers:
            await connection.execute(_ADD_TRANSFERS, _transfer_columns(books.transfers))


async def event_states(connection: Connection, keys: Sequence[tuple[UUID, str]]) -> list[tuple[bool, list[bytes]]]:
    """For each (request, kind), whether it is committed, and the events of it that are or were dead letters."""
    cursor = await connection.execute(_EVENT_STATES, ([key[0] for key in keys], [key[1] for key in keys]))
    return [(committed, letters) for _, committed, letters in await cursor.fetchall()]


async def charges_of(connection: Connection, request_ids: Sequence[UUID]) -> list[tuple[UUID, bytes]]:
    """The charges of these requests, as they were recorded."""
    cursor = await connection.execute(
        "SELECT request_id, recorded FROM billing.usage_events WHERE request_id = ANY(%s) AND kind = 'charge'",
        (list(request_ids),),
    )
    return [(request_id, bytes(recorded)) for request_id, recorded in await cursor.fetchall()]


async def transfer_of_event(connection: Connection, event_id: str) -> Transfer | None:
    """Leg 0 of an event's transfers."""
    cursor = await connection.execute(
        f"SELECT {TRANSFER_COLUMNS} FROM billing.transfers WHERE event_id = %s AND leg = 0", (event_id,)
    )
    row = await cursor.fetchone()
    return transfer(row) if row else None


async def hold_of_request(connection: Connection, request_id: UUID) -> Hold | None:
    """The newest hold that was made for a request."""
    cursor = await connection.execute(_HOLDS_OF_REQUEST, (request_id,))
    row = await cursor.fetchone()
    return _hold(row) if row else None


async def read_price(connection: Connection, version_id: str) -> bytes | None:
    """A price version's content, as it was stored."""
    cursor = await connection.execute("SELECT content FROM billing.price_versions WHERE id = %s", (version_id,))
    row = await cursor.fetchone()
    return bytes(row[0]) if row else None


async def keep_price(connection: Connection, version_id: str, content: bytes) -> None:
    """Stores a price version for ever."""
    await connection.execute(
        "INSERT INTO billing.price_versions (id, content) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (version_id, content),
    )


async def make_partitions(connection: Connection, *, days: int) -> int:
    """Makes the usage log's partitions from today on; tells how many were missing."""
    cursor = await connection.execute("SELECT billing.make_partitions(%s)", (days,))
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def missing_partitions(connection: Connection, *, days: int) -> int:
    """How many of the days from today on have no partition of their own."""
    cursor = await connection.execute(_MISSING_PARTITIONS, (days,))
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def drop_usage(connection: Connection, *, kept_days: int, limit: int) -> int:
    """Drops a day of the usage log, or so many old lines; 0 when none is old, or another replica is at it."""
    return await _alone(connection, "billing.retention", _DROP_USAGE, (kept_days, limit))


async def prune_holds(connection: Connection, *, kept_days: int, limit: int) -> int:
    """Drops so many holds that resolved long ago; 0 when none is old, or another replica is at it."""
    return await _alone(connection, "billing.prune_holds", _PRUNE_HOLDS, (kept_days, limit))


async def _alone(connection: Connection, lock: str, statement: str, values: tuple[int, int]) -> int:
    row = await (await connection.execute("SELECT pg_try_advisory_xact_lock(hashtext(%s))", (lock,))).fetchone()
    if not row or not row[0]:
        return 0
    row = await (await connection.execute(statement.encode(), values)).fetchone()
    return int(row[0]) if row else 0


def _counting(at_once: int) -> Callable[[], UUID]:
    """Ids of one transaction: a new one, and those that follow it. A random one each took longer than the decision.

    As many as it is likely to need are made in one step, which takes a third of making each by itself.
    """
    starts = itertools.count(uuid7().int & ~_ROOM, at_once)
    made = (
        msgspec.convert([number.to_bytes(16, "big") for number in range(start, start + at_once)], list[UUID])
        for start in starts
    )
    return itertools.chain.from_iterable(made).__next__


def _account(row: TupleRow) -> Account:
    customer_id, credited, used, held, version = row
    return Account(
        customer_id=customer_id, credited_nano_usd=credited, used_nano_usd=used, held_nano_usd=held, version=version
    )


def _account_columns(rows: Sequence[Account]) -> list[object]:
    return [
        array_sql.texts(row.customer_id for row in rows),
        array_sql.numbers(row.credited_nano_usd for row in rows),
        array_sql.numbers(row.used_nano_usd for row in rows),
        array_sql.numbers(row.held_nano_usd for row in rows),
        array_sql.numbers(row.version for row in rows),
    ]


def _hold(row: TupleRow) -> Hold:
    (id_, customer_id, kind, spender, amount, captured, freed, stated, state, lapsed, pinned, request_id, key_id) = row[
        :13
    ]
    return Hold(
        id=id_,
        customer_id=customer_id,
        kind=HoldKind(kind),
        spender=spender,
        amount_nano_usd=amount,
        captured_nano_usd=captured,
        freed_nano_usd=freed,
        stated_nano_usd=stated,
        state=HoldState(state),
        lapsed=lapsed,
        pinned=pinned,
        request_id=request_id,
        key_id=key_id,
        granted_at_us=row[13],
        expires_at_us=row[14],
        cap_ids=tuple(row[15] or ()),
    )


def _hold_columns(rows: Sequence[Hold]) -> list[object]:
    return [
        array_sql.ids(row.id for row in rows),
        array_sql.numbers(row.captured_nano_usd for row in rows),
        array_sql.numbers(row.freed_nano_usd for row in rows),
        array_sql.texts(row.state for row in rows),
        array_sql.flags(row.lapsed for row in rows),
        array_sql.flags(row.pinned for row in rows),
        array_sql.numbers(row.expires_at_us for row in rows),
    ]


def transfer(row: TupleRow) -> Transfer:
    """A transfer from its TRANSFER_COLUMNS."""
    (id_, debit, credit, amount, kind, event_id, leg, reverses, request_id, reason, customer_id, version) = row[:12]
    return Transfer(
        id=id_,
        debit=debit,
        credit=credit,
        amount_nano_usd=amount,
        kind=TransferKind(kind),
        event_id=event_id,
        leg=leg,
        reverses=reverses,
        request_id=request_id,
        reason=reason,
        customer_id=customer_id,
        version=version,
        balance_after_nano_usd=row[12],
        cap_ids=tuple(row[13] or ()),
    )


def _transfer_columns(rows: Sequence[Transfer]) -> list[object]:
    """The struct has its fields in the order of TRANSFER_COLUMNS."""
    columns = zip(*map(astuple, rows), strict=True)
    return [make(column) for make, column in zip(_TRANSFER_ARRAYS, columns, strict=True)]


def _usage_columns(rows: Sequence[UsageRow]) -> list[object]:
    """The struct has its fields in the statement's order.

    The events as they came, the last of them, travel as one value, and each row says which part is its own.
    """
    *columns, recorded = zip(*map(astuple, rows), strict=True)
    sizes = list(map(len, recorded))
    starts = itertools.accumulate(sizes[:-1], initial=1)
    return [
        *(make(column) for make, column in zip(_USAGE_ARRAYS, columns, strict=True)),
        b"".join(recorded),
        array_sql.numbers(starts),
        array_sql.numbers(sizes),
    ]


def _joined_cap_ids(each: Iterable[Sequence[str]]) -> array_sql.Texts:
    return array_sql.texts(map(cap_store.joined, each))


_TRANSFER_ARRAYS: Sequence[Callable[[Any], object]] = (
    array_sql.ids,  # id
    array_sql.texts,  # debit
    array_sql.texts,  # credit
    array_sql.numbers,  # amount
    array_sql.texts,  # kind
    array_sql.texts,  # event_id
    array_sql.numbers,  # leg
    array_sql.ids,  # reverses
    array_sql.ids,  # request_id
    array_sql.texts,  # reason
    array_sql.texts,  # customer_id
    array_sql.numbers,  # version
    array_sql.numbers,  # balance_after
    _joined_cap_ids,
)
_USAGE_ARRAYS: Sequence[Callable[[Any], object]] = (
    array_sql.ids,  # request_id
    *[array_sql.texts] * 5,  # kind, customer_id, key_id, model, operation
    *[array_sql.numbers] * 6,  # prompt_tokens, completion_tokens, charge, taken, overage, provider_cost
    array_sql.texts,  # ended
)
