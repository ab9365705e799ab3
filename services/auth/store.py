"""Auth's tables. Every function gets the connection that it works on; who opens the transaction decides its extent.

Times are microseconds since the epoch, handed in, so that one clock reading holds for a whole call.
"""

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row

from chassis.db import Connection
from services.auth.customers import Customer, Status
from services.auth.kept_keys import Holder
from services.auth.key_terms import ApiKey, KeyTerms
from services.auth.limits import Limits
from services.auth.spend_caps import Lifted, Period, SpendCap

_CUSTOMER = (
    "c.id AS c_id, c.name AS c_name, c.email, c.plan, c.status, c.created_at_us AS c_created_at_us,"
    " c.spend_cap_nano_usd AS c_spend_cap_nano_usd, c.spend_cap_per AS c_spend_cap_per"
)
_KEY = (
    "k.id, k.customer_id, k.name, k.shown_prefix, k.models, k.requests_per_minute, k.tokens_per_minute, k.concurrent,"
    " k.spend_cap_nano_usd, k.spend_cap_per, k.allowed_ips, k.expires_at_us, k.created_at_us, k.revoked_at_us,"
    " k.made_by"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who has a request id: `first` is true for the call that made the claim."""

    first: bool
    method: str
    fingerprint: bytes
    object_id: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key about to be stored, with what its secret can be made from again for an hour."""

    key: ApiKey
    digest: bytes
    pepper_version: int
    seed: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A key, or without `key_id` a customer, of which no kept answer may be used any more."""

    number: int
    event_id: str
    key_id: str
    customer_id: str


# Idempotency


async def claim(
    conn: Connection, request_id: str, *, method: str, fingerprint: bytes, object_id: str, now_us: int
) -> Claim:
    """Takes a request id, or tells who has it. A concurrent twin waits here until the first has committed."""
    made = await conn.execute(
        "INSERT INTO auth.claims (request_id, method, fingerprint, object_id, claimed_at_us)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (request_id) DO NOTHING",
        (request_id, method, fingerprint, object_id, now_us),
    )
    if made.rowcount == 1:
        return Claim(first=True, method=method, fingerprint=fingerprint, object_id=object_id)
    row = await _one(
        conn, "SELECT method, fingerprint, object_id FROM auth.claims WHERE request_id = %s", (request_id,)
    )
    if row is None:
        raise LookupError(f"claim {request_id} was trimmed while it was asked for")
    return Claim(
        first=False,
        method=row["method"],
        fingerprint=bytes(row["fingerprint"]),
        object_id=str(row["object_id"]),
    )


# Customers


async def insert_customer(conn: Connection, customer: Customer) -> bool:
    """Stores a customer; False when that id is taken."""
    made = await conn.execute(
        "INSERT INTO auth.customers (id, name, email, plan, status, created_at_us, spend_cap_nano_usd, spend_cap_per)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
        (
            customer.id,
            customer.name,
            customer.email,
            customer.plan,
            customer.status.value,
            customer.created_at_us,
            customer.spend_cap and customer.spend_cap.amount_nano_usd,
            customer.spend_cap and customer.spend_cap.per,
        ),
    )
    return made.rowcount == 1


async def customer(conn: Connection, customer_id: str) -> Customer | None:
    """One customer."""
    row = await _one(conn, f"SELECT {_CUSTOMER} FROM auth.customers c WHERE c.id = %s", (customer_id,))
    return None if row is None else _customer(row)


async def change_customer(
    conn: Connection,
    customer_id: str,
    *,
    plan: str | None,
    status: Status | None,
    spend_cap: SpendCap | Lifted | None = None,
) -> Customer | None:
    """Sets what is not None."""
    cap = spend_cap if isinstance(spend_cap, SpendCap) else None
    row = await _one(
        conn,
        "UPDATE auth.customers c SET plan = coalesce(%(plan)s, c.plan), status = coalesce(%(status)s, c.status),"
        " spend_cap_nano_usd = CASE WHEN %(keeps)s THEN c.spend_cap_nano_usd ELSE %(amount)s END,"
        " spend_cap_per = CASE WHEN %(keeps)s THEN c.spend_cap_per ELSE %(per)s END"
        f" WHERE c.id = %(id)s RETURNING {_CUSTOMER}",
        {
            "plan": plan,
            "status": None if status is None else status.value,
            "keeps": spend_cap is None,
            "amount": cap and cap.amount_nano_usd,
            "per": cap and cap.per,
            "id": customer_id,
        },
    )
    return None if row is None else _customer(row)


async def customers(conn: Connection, *, after: str | None, limit: int) -> list[Customer]:
    """Newest first, below `after`."""
    rows = await _all(
        conn,
        f"SELECT {_CUSTOMER} FROM auth.customers c WHERE %(after)s::uuid IS NULL OR c.id < %(after)s::uuid"
        " ORDER BY c.id DESC LIMIT %(limit)s",
        {"after": after, "limit": limit},
    )
    return [_customer(row) for row in rows]


# Keys


async def insert_key(conn: Connection, new: NewKey) -> None:
    """Stores a key; its digest is unique."""
    key, terms = new.key, new.key.terms
    await conn.execute(
        "INSERT INTO auth.api_keys (id, customer_id, name, shown_prefix, digest, pepper_version, seed, models,"
        " requests_per_minute, tokens_per_minute, concurrent, spend_cap_nano_usd, spend_cap_per, allowed_ips,"
        " expires_at_us, created_at_us, made_by)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            key.id,
            key.customer_id,
            terms.name,
            key.shown_prefix,
            new.digest,
            new.pepper_version,
            new.seed,
            list(terms.models),
            terms.overrides.requests_per_minute,
            terms.overrides.tokens_per_minute,
            terms.overrides.concurrent,
            terms.spend_cap and terms.spend_cap.amount_nano_usd,
            terms.spend_cap and terms.spend_cap.per,
            list(terms.allowed_ips),
            terms.expires_at_us,
            key.created_at_us,
            key.made_by or None,
        ),
    )


async def holder(conn: Connection, digests: Sequence[bytes]) -> Holder | None:
    """The key with one of these digests, and its customer: the look-up of the hot path, by the unique index."""
    row = await _one(
        conn,
        f"SELECT {_KEY}, {_CUSTOMER} FROM auth.api_keys k JOIN auth.customers c ON c.id = k.customer_id"
        " WHERE k.digest = ANY(%s)",
        (list(digests),),
    )
    return None if row is None else Holder(_key(row), _customer(row))


async def key(conn: Connection, key_id: str) -> ApiKey | None:
    """One key."""
    row = await _one(conn, f"SELECT {_KEY} FROM auth.api_keys k WHERE k.id = %s", (key_id,))
    return None if row is None else _key(row)


async def seed_of(conn: Connection, key_id: str, *, made_since_us: int) -> tuple[bytes, int] | None:
    """Seed and pepper version of a key made since then, as long as the seed is kept."""
    row = await _one(
        conn,
        "SELECT seed, pepper_version FROM auth.api_keys WHERE id = %s AND seed IS NOT NULL AND created_at_us >= %s",
        (key_id, made_since_us),
    )
    return None if row is None else (bytes(row["seed"]), row["pepper_version"])


async def keys(conn: Connection, *, customer_id: str | None, after: str | None, limit: int) -> list[ApiKey]:
    """Newest first, below `after`, of one customer or of all."""
    rows = await _all(
        conn,
        f"SELECT {_KEY} FROM auth.api_keys k"
        " WHERE (%(customer)s::uuid IS NULL OR k.customer_id = %(customer)s::uuid)"
        " AND (%(after)s::uuid IS NULL OR k.id < %(after)s::uuid) ORDER BY k.id DESC LIMIT %(limit)s",
        {"customer": customer_id, "after": after, "limit": limit},
    )
    return [_key(row) for row in rows]


async def revoke_key(conn: Connection, key_id: str, *, customer_id: str | None, now_us: int) -> ApiKey | None:
    """Ends a key that is valid; None when there is none such, also when it has ended before."""
    row = await _one(
        conn,
        "UPDATE auth.api_keys k SET revoked_at_us = %s, seed = NULL WHERE k.id = %s AND k.revoked_at_us = 0"
        f" AND (%s::uuid IS NULL OR k.customer_id = %s::uuid) RETURNING {_KEY}",
        (now_us, key_id, customer_id, customer_id),
    )
    return None if row is None else _key(row)


# Changes: what replicas poll, and at the same time the outbox


async def add_change(conn: Connection, *, key_id: str | None, customer_id: str, now_us: int) -> None:
    """Numbers a change. The clock's row is locked until commit, so that numbers appear in order and without gaps:
    a poll that has seen one number has seen all below it."""
    await conn.execute(
        "WITH clock AS (UPDATE auth.change_clock SET number = number + 1 RETURNING number)"
        " INSERT INTO auth.changes (number, event_id, key_id, customer_id, made_at_us)"
        " SELECT number, %s, %s, %s, %s FROM clock",
        (str(uuid.uuid4()), key_id, customer_id, now_us),
    )


async def last_change(conn: Connection) -> int:
    """The newest number."""
    row = await _one(conn, "SELECT number FROM auth.change_clock", ())
    return 0 if row is None else int(row["number"])


async def changes_after(conn: Connection, number: int, *, limit: int) -> list[Change]:
    """Changes above `number`, in order."""
    rows = await _all(
        conn,
        "SELECT number, event_id, key_id, customer_id FROM auth.changes WHERE number > %s ORDER BY number LIMIT %s",
        (number, limit),
    )
    return [_change(row) for row in rows]


async def changes_to_publish(conn: Connection, *, limit: int) -> list[Change]:
    """The oldest changes that nobody has published; other replicas pass over them until this transaction ends."""
    rows = await _all(
        conn,
        "SELECT number, event_id, key_id, customer_id FROM auth.changes WHERE published_at_us = 0"
        " ORDER BY number LIMIT %s FOR UPDATE SKIP LOCKED",
        (limit,),
    )
    return [_change(row) for row in rows]


async def mark_published(conn: Connection, numbers: Sequence[int], *, now_us: int) -> None:
    """They are out."""
    await conn.execute("UPDATE auth.changes SET published_at_us = %s WHERE number = ANY(%s)", (now_us, list(numbers)))


# Upkeep


async def forget_old(conn: Connection, *, seeds_before_us: int, changes_before_us: int, claims_before_us: int) -> None:
    """Wipes what is kept for a while only."""
    await conn.execute(
        "UPDATE auth.api_keys SET seed = NULL WHERE seed IS NOT NULL AND created_at_us < %s",
        (seeds_before_us,),
    )
    await conn.execute("DELETE FROM auth.changes WHERE made_at_us < %s", (changes_before_us,))
    await conn.execute("DELETE FROM auth.claims WHERE claimed_at_us < %s", (claims_before_us,))


_Row = dict[str, Any]
_Arguments = Sequence[object] | dict[str, object]


async def _one(conn: Connection, query: str, arguments: _Arguments) -> _Row | None:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, arguments)
        return await cursor.fetchone()


async def _all(conn: Connection, query: str, arguments: _Arguments) -> list[_Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, arguments)
        return await cursor.fetchall()


def _customer(row: _Row) -> Customer:
    return Customer(
        id=str(row["c_id"]),
        name=row["c_name"],
        email=row["email"],
        plan=row["plan"],
        status=Status(row["status"]),
        created_at_us=row["c_created_at_us"],
        spend_cap=_cap(row["c_spend_cap_nano_usd"], row["c_spend_cap_per"]),
    )


def _key(row: _Row) -> ApiKey:
    return ApiKey(
        id=str(row["id"]),
        customer_id=str(row["customer_id"]),
        shown_prefix=row["shown_prefix"],
        terms=KeyTerms(
            name=row["name"],
            models=tuple(row["models"]),
            overrides=Limits(
                requests_per_minute=row["requests_per_minute"],
                tokens_per_minute=row["tokens_per_minute"],
                concurrent=row["concurrent"],
            ),
            spend_cap=_cap(row["spend_cap_nano_usd"], row["spend_cap_per"]),
            allowed_ips=tuple(row["allowed_ips"]),
            expires_at_us=row["expires_at_us"],
        ),
        created_at_us=row["created_at_us"],
        revoked_at_us=row["revoked_at_us"],
        made_by="" if row["made_by"] is None else str(row["made_by"]),
    )


def _cap(amount_nano_usd: int | None, per: Period) -> SpendCap | None:
    return None if amount_nano_usd is None else SpendCap(amount_nano_usd=amount_nano_usd, per=per)


def _change(row: _Row) -> Change:
    return Change(
        number=row["number"],
        event_id=str(row["event_id"]),
        key_id="" if row["key_id"] is None else str(row["key_id"]),
        customer_id=str(row["customer_id"]),
    )
