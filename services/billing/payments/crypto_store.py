"""SQL of the transfers that were seen on a chain, and of how far each address was watched.

A transfer's row is locked before its payment's, everywhere.
"""

import dataclasses
from collections.abc import Sequence
from uuid import UUID

from psycopg.rows import TupleRow

from chassis.db import Connection
from services.billing.payments.chain import OnChain, suffix_of

_CLAIM = """
    INSERT INTO billing.crypto_watches AS w (address, seen_until, claimed_by, claimed_until)
    VALUES (%(address)s, now() - interval '1 hour', %(by)s, now() + %(claim_s)s * interval '1 second')
    ON CONFLICT (address) DO UPDATE SET claimed_by = excluded.claimed_by, claimed_until = excluded.claimed_until
    WHERE w.claimed_until <= now() OR w.claimed_by = excluded.claimed_by
    RETURNING (extract(epoch FROM seen_until) * 1000000)::bigint
"""
_RELEASE = """
    UPDATE billing.crypto_watches SET claimed_until = now(),
        seen_until = greatest(seen_until, 'epoch'::timestamptz + %s * interval '1 microsecond')
    WHERE address = %s AND claimed_by = %s
"""
_ADDRESSES = """
    SELECT address FROM billing.payments
    WHERE provider = 'crypto' AND suffix IS NOT NULL AND open_until > now() AND address <> %(but)s
    UNION SELECT address FROM billing.crypto_transfers
    WHERE (state = 'seen' OR (state = 'dropped' AND dropped_at > now() - interval '1 day')) AND address <> %(but)s
    LIMIT %(limit)s
"""
_FINISHED = """
    SELECT transaction_id FROM billing.crypto_transfers WHERE transaction_id = ANY(%s)
    GROUP BY transaction_id HAVING bool_and(state IN ('settled', 'unmatched'))
"""
_WAITING = """
    SELECT transaction_id FROM billing.crypto_transfers
    WHERE address = %s AND (state = 'seen' OR (state = 'dropped' AND dropped_at > now() - interval '1 day'))
    GROUP BY transaction_id ORDER BY bool_and(state = 'dropped'), min(seen_at) LIMIT %s
"""
_ROWS = """
    SELECT position, state, payment_id, seen_at < now() - %s * interval '1 second'
    FROM billing.crypto_transfers WHERE transaction_id = %s ORDER BY position FOR NO KEY UPDATE
"""
_MATCH = """
    SELECT id FROM billing.payments
    WHERE provider = 'crypto' AND address = %(address)s AND suffix = %(suffix)s AND object_id IS NULL
        AND created_at <= 'epoch'::timestamptz + (%(at)s + %(slack)s) * interval '1 microsecond'
        AND open_until >= 'epoch'::timestamptz + %(at)s * interval '1 microsecond'
        AND (suffix > 0 OR (amount_micro_usdt = %(amount)s AND NOT EXISTS (
            SELECT FROM billing.payments o WHERE o.address = %(address)s AND o.suffix > 0 AND o.object_id IS NULL
                AND o.amount_micro_usdt - o.suffix = %(amount)s)))
    FOR NO KEY UPDATE
"""
_SEE = """
    INSERT INTO billing.crypto_transfers AS t
        (transaction_id, position, address, sender, amount_micro_usdt, payment_id, arrived_at)
    VALUES (%s, %s, %s, %s, %s, %s, 'epoch'::timestamptz + %s * interval '1 microsecond')
    ON CONFLICT (transaction_id, position) DO UPDATE
        SET state = 'seen', arrived_at = excluded.arrived_at, seen_at = now(),
            payment_id = CASE t.state WHEN 'seen' THEN t.payment_id ELSE excluded.payment_id END
        WHERE t.state IN ('seen', 'dropped')
    RETURNING payment_id
"""
_PAYMENT_SEEN = "UPDATE billing.payments SET state = 'confirming', object_id = %s WHERE id = %s AND object_id IS NULL"
_PAYMENT_UNSEEN = """
    UPDATE billing.payments SET state = 'pending', object_id = NULL WHERE id = %s AND state = 'confirming'
"""
_END = """
    UPDATE billing.crypto_transfers
    SET state = %(state)s, reason = %(reason)s, dropped_at = CASE %(state)s WHEN 'dropped' THEN now() END
    WHERE transaction_id = %(transaction_id)s AND position = %(position)s
"""
_EXPIRE = """
    UPDATE billing.payments SET state = 'expired'
    WHERE provider = 'crypto' AND state = 'pending' AND expires_at <= now()
"""
_UNMATCHED = """
    SELECT transaction_id, position, sender, amount_micro_usdt, arrived_at FROM billing.crypto_transfers
    WHERE state = 'unmatched' ORDER BY arrived_at DESC LIMIT %s
"""
_LOCK_ONE = """
    SELECT state, payment_id, amount_micro_usdt FROM billing.crypto_transfers
    WHERE transaction_id = %s AND position = %s FOR NO KEY UPDATE
"""
_GIVE = """
    UPDATE billing.crypto_transfers SET state = 'settled', payment_id = %s WHERE transaction_id = %s AND position = %s
"""
CLAIM_SLACK_US = 60_000_000
"""Our clock and the chain's may differ by so much."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A transfer as we know it. `is_stale`: it was last seen on the chain long ago."""

    position: int
    state: str
    payment_id: UUID | None
    is_stale: bool


async def claim(connection: Connection, address: str, *, by: UUID, claim_s: int) -> int | None:
    """Claims the watch of an address; returns until when it was watched, None while another replica has it."""
    cursor = await connection.execute(_CLAIM, {"address": address, "by": by, "claim_s": claim_s})
    row = await cursor.fetchone()
    return int(row[0]) if row else None


async def release(connection: Connection, address: str, *, by: UUID, seen_until_us: int) -> None:
    """Ends the claim, with how far it came."""
    await connection.execute(_RELEASE, (seen_until_us, address, by))


async def other_addresses(connection: Connection, address: str, *, limit: int) -> Sequence[str]:
    """Addresses that were configured before and still have open payments, or transfers that wait."""
    cursor = await connection.execute(_ADDRESSES, {"but": address, "limit": limit})
    return [row[0] for row in await cursor.fetchall()]


async def finished(connection: Connection, transaction_ids: Sequence[str]) -> set[str]:
    """Those of these transactions that need no further look."""
    cursor = await connection.execute(_FINISHED, (list(transaction_ids),))
    return {row[0] for row in await cursor.fetchall()}


async def waiting(connection: Connection, address: str, *, limit: int) -> Sequence[str]:
    """Transactions that were seen and are not settled, those first that were looked at longest ago; then those that
    were dropped in the last day, since no list may name them again."""
    cursor = await connection.execute(_WAITING, (address, limit))
    return [row[0] for row in await cursor.fetchall()]


async def lock_rows(connection: Connection, transaction_id: str, *, stale_s: int) -> dict[int, Row]:
    """What is known of a transaction's transfers, locked."""
    cursor = await connection.execute(_ROWS, (stale_s, transaction_id))
    return {
        position: Row(position=position, state=state, payment_id=payment_id, is_stale=is_stale)
        for position, state, payment_id, is_stale in await cursor.fetchall()
    }


async def match(connection: Connection, address: str, *, amount_micro_usdt: int, arrived_at_us: int) -> UUID | None:
    """The payment that the digits of this amount name, if it still waits for its transfer; locked.

    A round sum names the payment over just that, unless somebody else is asked for as much: they may have rounded.
    """
    suffix = suffix_of(amount_micro_usdt)
    values = {"address": address, "suffix": suffix, "at": arrived_at_us, "slack": CLAIM_SLACK_US}
    values["amount"] = amount_micro_usdt
    cursor = await connection.execute(_MATCH, values)
    row = await cursor.fetchone()
    return row[0] if row else None


async def see(
    connection: Connection, address: str, transaction_id: str, found: OnChain, *, payment_id: UUID | None
) -> tuple[bool, UUID | None]:
    """Notes a transfer, again or for the first time, and that its payment is confirming.

    Returns whether it still is to be settled, and whose payment it is: as it was first noted.
    """
    values = (found.position, address, found.sender, found.amount_micro_usdt, payment_id, found.arrived_at_us)
    cursor = await connection.execute(_SEE, (transaction_id, *values))
    row = await cursor.fetchone()
    if row is None:
        return False, None
    if row[0] is not None:
        await connection.execute(_PAYMENT_SEEN, (f"{transaction_id}:{found.position}", row[0]))
    return True, row[0]


async def end(connection: Connection, transaction_id: str, position: int, *, state: str, reason: str = "") -> None:
    """Moves a transfer to where it stays."""
    values = {"state": state, "reason": reason, "transaction_id": transaction_id, "position": position}
    await connection.execute(_END, values)


async def unsee(connection: Connection, payment_id: UUID) -> None:
    """A payment whose transfer is gone waits again."""
    await connection.execute(_PAYMENT_UNSEEN, (payment_id,))


async def expire(connection: Connection) -> int:
    """Lets payments lapse that nobody paid in time; returns how many."""
    return (await connection.execute(_EXPIRE)).rowcount


async def unmatched(connection: Connection, *, limit: int) -> Sequence[TupleRow]:
    """Transaction, position, sender, amount and time of transfers that wait for an operator, the newest first."""
    return await (await connection.execute(_UNMATCHED, (limit,))).fetchall()


async def lock_transfer(
    connection: Connection, transaction_id: str, position: int
) -> tuple[str, UUID | None, int] | None:
    """State, payment and amount of one transfer, locked."""
    row = await (await connection.execute(_LOCK_ONE, (transaction_id, position))).fetchone()
    return (row[0], row[1], row[2]) if row else None


async def give(connection: Connection, transaction_id: str, position: int, *, payment_id: UUID) -> None:
    """Says whose a transfer was after all."""
    await connection.execute(_GIVE, (payment_id, transaction_id, position))
