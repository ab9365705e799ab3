"""SQL of payments and of what was taken back of them. Each function takes the connection of its caller's transaction.

Whoever locks a payment that others may have locks it before its customer's account. `count_open` and what follows it
hold the account first, so they wait for no payment: they write only the one that they add, and skip what is locked.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import TupleRow

from chassis.db import Connection
from services.billing.payments.payment import Method, Payment, State


def _us(column: str) -> str:
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


_COLUMNS = f"""id, customer_id, request_id, provider, state, amount, credited, reversed, object_id, event_id, intent_id,
    url, address, amount_micro_usdt, note, {_us("created_at")}, {_us("expires_at")}, {_us("open_until")}"""
_SELECT = f"SELECT {_COLUMNS} FROM billing.payments"
_LOCK = f"{_SELECT} WHERE id = %s FOR NO KEY UPDATE"
_ADD = f"""
    INSERT INTO billing.payments (id, customer_id, request_id, provider, amount, expires_at, open_until, check_at)
    SELECT %(id)s, %(customer_id)s, %(request_id)s, %(provider)s, %(amount)s, now() + %(lives_s)s * interval '1 second',
        now() + %(open_s)s * interval '1 second', now() + %(lives_s)s * interval '1 second' + interval '1 minute'
    ON CONFLICT (customer_id, request_id) DO NOTHING RETURNING {_COLUMNS}
"""
_FREE_SUFFIX = """
    SELECT s FROM generate_series(0, 9999) s
    WHERE NOT EXISTS (SELECT FROM billing.payments p WHERE p.address = %(address)s AND p.suffix = s)
        AND (s > 0 OR %(round_first)s AND NOT EXISTS (
            SELECT FROM billing.payments p WHERE p.address = %(address)s AND p.suffix IS NOT NULL
                AND p.amount_micro_usdt - p.suffix = %(base)s AND p.object_id IS NULL))
    ORDER BY s > 0, random() LIMIT 1
"""
_FREE_OLD_SUFFIXES = """
    UPDATE billing.payments SET suffix = NULL WHERE id IN (
        SELECT id FROM billing.payments WHERE suffix IS NOT NULL AND open_until < now() - interval '1 hour'
        FOR NO KEY UPDATE SKIP LOCKED)
"""
_COUNT_SUFFIXES = """
    SELECT count(*) FROM billing.payments
    WHERE customer_id = %s AND suffix IS NOT NULL AND state <> 'settled' AND open_until >= now() - interval '1 hour'
"""
_GIVE_SUFFIX = f"""
    UPDATE billing.payments SET address = %s, suffix = %s, amount_micro_usdt = %s WHERE id = %s RETURNING {_COLUMNS}
"""
_SETTLE = f"""
    UPDATE billing.payments
    SET state = 'settled', credited = %s, event_id = %s, object_id = %s, intent_id = coalesce(%s, intent_id), note = %s,
        settled_at = now()
    WHERE id = %s RETURNING {_COLUMNS}
"""
_DUE = f"""
    {_SELECT} WHERE state IN ('pending', 'confirming') AND provider = %s AND check_at <= now()
    ORDER BY check_at LIMIT %s
"""
_REVERSE = """
    INSERT INTO billing.payment_reversals (object_id, payment_id, amount) VALUES (%s, %s, %s)
    ON CONFLICT (object_id) DO UPDATE SET amount = excluded.amount, changed_at = now()
"""
_WON = """
    UPDATE billing.payment_reversals AS r SET won_at = now() FROM billing.payments AS p
    WHERE r.object_id = %s AND r.won_at IS NULL AND p.id = r.payment_id RETURNING p.id, p.customer_id, r.amount
"""


async def add(connection: Connection, payment: Payment, *, lives_s: int, late_s: int) -> Payment | None:
    """Adds a pending payment that lives so long, and takes late money so long after; None when the customer's
    request_id has one."""
    values = {
        "id": payment.id,
        "customer_id": payment.customer_id,
        "request_id": payment.request_id,
        "provider": str(payment.method),
        "amount": payment.amount_nano_usd,
        "lives_s": lives_s,
        "open_s": lives_s + late_s,
    }
    return await _one(connection, _ADD, values)


async def of_request(connection: Connection, customer_id: str, request_id: str) -> Payment | None:
    """The payment that a customer's call began."""
    return await _one(connection, f"{_SELECT} WHERE customer_id = %s AND request_id = %s", (customer_id, request_id))


async def read(connection: Connection, payment_id: UUID) -> Payment | None:
    """A payment as committed now."""
    return await _one(connection, f"{_SELECT} WHERE id = %s", (payment_id,))


async def lock(connection: Connection, payment_id: UUID) -> Payment | None:
    """A payment, locked."""
    return await _one(connection, _LOCK, (payment_id,))


async def of_intent(connection: Connection, intent_id: str) -> Payment | None:
    """The payment that was settled by this payment intent."""
    return await _one(connection, f"{_SELECT} WHERE intent_id = %s", (intent_id,))


async def count_open(connection: Connection, customer_id: str) -> int:
    """Unpaid payments of a customer. Serialises with itself by the lock on their account's row."""
    await connection.execute(
        "SELECT FROM billing.ledger_accounts WHERE customer_id = %s FOR NO KEY UPDATE", (customer_id,)
    )
    cursor = await connection.execute(
        "SELECT count(*) FROM billing.payments WHERE customer_id = %s AND state = 'pending'", (customer_id,)
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def count_suffixes(connection: Connection, customer_id: str) -> int:
    """Amounts that unpaid payments of a customer keep from others, also when they expired: late money is awaited."""
    row = await (await connection.execute(_COUNT_SUFFIXES, (customer_id,))).fetchone()
    return int(row[0]) if row else 0


async def give_suffix(
    connection: Connection, payment: Payment, *, address: str, base_micro_usdt: int, round_first: bool
) -> Payment | None:
    """Gives a payment an amount that no other open payment to this address ends with; None when all are in use.

    With `round_first` it is the sum itself, if nobody's is and no other payment waits for the same sum.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('billing.payments.suffix'))")
    await connection.execute(_FREE_OLD_SUFFIXES)
    values = {"address": address, "base": base_micro_usdt, "round_first": round_first}
    cursor = await connection.execute(_FREE_SUFFIX, values)
    row = await cursor.fetchone()
    if row is None:
        return None
    suffix = int(row[0])
    return await _one(connection, _GIVE_SUFFIX, (address, suffix, base_micro_usdt + suffix, payment.id))


async def set_session(
    connection: Connection, payment_id: UUID, *, session_id: str, url: str, expires_at_us: int
) -> Payment | None:
    """Notes where a payment is paid; only while it has no session yet."""
    statement = f"""
        UPDATE billing.payments SET object_id = %s, url = %s,
            expires_at = 'epoch'::timestamptz + %s * interval '1 microsecond',
            open_until = 'epoch'::timestamptz + %s * interval '1 microsecond',
            check_at = 'epoch'::timestamptz + %s * interval '1 microsecond' + interval '1 minute'
        WHERE id = %s AND object_id IS NULL RETURNING {_COLUMNS}
    """
    times = (expires_at_us, expires_at_us, expires_at_us)
    return await _one(connection, statement, (session_id, url, *times, payment_id))


async def set_state(connection: Connection, payment_id: UUID, state: State, *, note: str = "") -> Payment | None:
    """Moves a payment that is locked and not settled."""
    statement = f"UPDATE billing.payments SET state = %s, note = %s WHERE id = %s RETURNING {_COLUMNS}"
    return await _one(connection, statement, (str(state), note, payment_id))


async def settle(connection: Connection, payment: Payment) -> Payment | None:
    """Writes a locked payment as settled, with what was credited."""
    values = (
        payment.credited_nano_usd,
        payment.event_id,
        payment.object_id,
        payment.intent_id,
        payment.note,
        payment.id,
    )
    return await _one(connection, _SETTLE, values)


async def due(connection: Connection, method: Method, *, limit: int) -> Sequence[Payment]:
    """Open payments that should be looked at, whatever their provider told us."""
    cursor = await connection.execute(_DUE, (str(method), limit))
    return [_payment(row) for row in await cursor.fetchall()]


async def look_again(connection: Connection, payment_id: UUID, *, in_s: int) -> None:
    """Puts the next look at a payment off."""
    await connection.execute(
        "UPDATE billing.payments SET check_at = now() + %s * interval '1 second' WHERE id = %s", (in_s, payment_id)
    )


class Reversed(NamedTuple):
    """What a refund or dispute has taken back so far, in nano-USD, and whether that was in the last four days."""

    amount_nano_usd: int = 0
    is_recent: bool = False


async def reversed_by(connection: Connection, object_id: str) -> Reversed:
    """What this refund or dispute has done; Stripe repeats a webhook for three days."""
    cursor = await connection.execute(
        "SELECT amount, changed_at > now() - interval '4 days' FROM billing.payment_reversals WHERE object_id = %s",
        (object_id,),
    )
    row = await cursor.fetchone()
    return Reversed(row[0], row[1]) if row else Reversed()


async def add_reversal(connection: Connection, payment: Payment, *, object_id: str, total_nano_usd: int) -> None:
    """Notes what a refund or dispute has taken back in all, and the payment's own sum."""
    await connection.execute(_REVERSE, (object_id, payment.id, total_nano_usd))
    await connection.execute(
        "UPDATE billing.payments SET reversed = %s WHERE id = %s", (payment.reversed_nano_usd, payment.id)
    )


class Won(NamedTuple):
    """A dispute that was won after all, and what it had taken."""

    payment_id: UUID
    customer_id: str
    amount_nano_usd: int


async def note_won(connection: Connection, object_id: str) -> Won | None:
    """Notes that a dispute was won; None when it took nothing, or was noted before."""
    cursor = await connection.execute(_WON, (object_id,))
    row = await cursor.fetchone()
    return Won(*row) if row else None


async def _one(
    connection: Connection, statement: str, values: dict[str, object] | tuple[object, ...]
) -> Payment | None:
    cursor = await connection.execute(statement.encode(), values)
    row = await cursor.fetchone()
    return _payment(row) if row else None


def _payment(row: TupleRow) -> Payment:
    (id_, customer_id, request_id, provider, state, amount, credited, reversed_, object_id, event_id, intent_id) = row[
        :11
    ]
    url, address, amount_micro_usdt, note, created_at_us, expires_at_us, open_until_us = row[11:]
    return Payment(
        id=id_,
        customer_id=customer_id,
        request_id=request_id,
        method=Method(provider),
        state=State(state),
        amount_nano_usd=amount,
        credited_nano_usd=credited,
        reversed_nano_usd=reversed_,
        object_id=object_id,
        event_id=event_id,
        intent_id=intent_id,
        url=url,
        address=address,
        amount_micro_usdt=amount_micro_usdt,
        note=note,
        created_at_us=created_at_us,
        expires_at_us=expires_at_us,
        open_until_us=open_until_us,
    )
