"""SQL of idempotency claims. All times are the database's, so that replicas agree on who is alive and what is kept.

Who is known to run no more is alive until `-infinity`: that is a word, and no silence.
"""

import dataclasses
from collections.abc import Sequence
from uuid import UUID

from chassis.db import Connection

_ADD = """
    INSERT INTO billing.idempotency_claims (customer_id, key, body_hash, request_id, call_id, spender, alive_until)
    VALUES (%s, %s, %s, %s, %s, %s, now() + %s * interval '1 second')
    ON CONFLICT (customer_id, key) DO NOTHING RETURNING call_id
"""
_LOCK = """
    SELECT body_hash, request_id, call_id, answered, alive_until > now(), alive_until = '-infinity',
        made_at > now() - %s * interval '1 second', (extract(epoch FROM now()) * 1000000)::bigint
    FROM billing.idempotency_claims WHERE customer_id = %s AND key = %s FOR UPDATE
"""
_HAND_OVER = """
    UPDATE billing.idempotency_claims
    SET call_id = %s, spender = %s, alive_until = now() + %s * interval '1 second'
    WHERE customer_id = %s AND key = %s
"""
_RENEW = """
    UPDATE billing.idempotency_claims SET alive_until = now() + %s * interval '1 second'
    WHERE call_id = ANY(%s) AND spender = %s AND NOT answered RETURNING call_id
"""
_END_SPENDER = """
    UPDATE billing.idempotency_claims SET alive_until = '-infinity'
    WHERE spender = %s AND NOT answered AND alive_until > '-infinity'
"""
_ANSWERED = "UPDATE billing.idempotency_claims SET answered = true WHERE call_id = %s"
_RELEASED = "DELETE FROM billing.idempotency_claims WHERE call_id = %s AND NOT answered"
_LAPSED = "UPDATE billing.idempotency_claims SET alive_until = '-infinity' WHERE call_id = %s AND NOT answered"
_FORGET = "DELETE FROM billing.idempotency_claims WHERE customer_id = %s AND key = %s"
_PRUNE = """
    DELETE FROM billing.idempotency_claims WHERE (customer_id, key) IN (
        SELECT customer_id, key FROM billing.idempotency_claims
        WHERE made_at < now() - %s * interval '1 second' AND (answered OR alive_until < now())
        ORDER BY made_at LIMIT %s FOR UPDATE SKIP LOCKED)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call that claims a key."""

    customer_id: str
    key: str
    body_hash: bytes
    call_id: UUID
    spender: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim as it stands at `now_us`, locked.

    `alive`: its call was renewed lately; `given_up`: it is known to run no more; `kept`: it is not to be forgotten yet.
    """

    body_hash: bytes
    request_id: UUID
    call_id: UUID
    answered: bool
    alive: bool
    given_up: bool
    kept: bool
    now_us: int


async def add(connection: Connection, asked: Asked, *, lives_s: float) -> bool:
    """Makes the claim; False when there is one."""
    cursor = await connection.execute(
        _ADD,
        (asked.customer_id, asked.key, asked.body_hash, asked.call_id, asked.call_id, asked.spender, lives_s),
    )
    return await cursor.fetchone() is not None


async def lock(connection: Connection, asked: Asked, *, kept_s: float) -> Claim | None:
    """The claim, for this transaction alone."""
    cursor = await connection.execute(_LOCK, (kept_s, asked.customer_id, asked.key))
    row = await cursor.fetchone()
    if row is None:
        return None
    body_hash, request_id, call_id, answered, alive, given_up, kept, now_us = row
    return Claim(
        body_hash=bytes(body_hash),
        request_id=request_id,
        call_id=call_id,
        answered=answered,
        alive=alive,
        given_up=given_up,
        kept=kept,
        now_us=now_us,
    )


async def hand_over(connection: Connection, asked: Asked, *, lives_s: float) -> None:
    """Gives the claim, with its request id, to this call."""
    await connection.execute(_HAND_OVER, (asked.call_id, asked.spender, lives_s, asked.customer_id, asked.key))


async def forget(connection: Connection, asked: Asked) -> None:
    """Drops the claim on this key."""
    await connection.execute(_FORGET, (asked.customer_id, asked.key))


async def renew(connection: Connection, *, spender: str, call_ids: Sequence[UUID], lives_s: float) -> set[UUID]:
    """Renews what this spender works on; returns what it still has."""
    cursor = await connection.execute(_RENEW, (lives_s, list(call_ids), spender))
    return {row[0] for row in await cursor.fetchall()}


async def end_spender(connection: Connection, *, spender: str) -> None:
    """Lets everything that a spender worked on be taken over."""
    await connection.execute(_END_SPENDER, (spender,))


async def answered(connection: Connection, call_id: UUID) -> None:
    """It never runs again."""
    await connection.execute(_ANSWERED, (call_id,))


async def released(connection: Connection, call_id: UUID) -> None:
    """As if the key had never been used."""
    await connection.execute(_RELEASED, (call_id,))


async def lapsed(connection: Connection, call_id: UUID) -> None:
    """The next call takes it over."""
    await connection.execute(_LAPSED, (call_id,))


async def prune(connection: Connection, *, kept_s: float, limit: int) -> int:
    """Drops claims that are older; returns how many."""
    cursor = await connection.execute(_PRUNE, (kept_s, limit))
    return cursor.rowcount
