"""The table of refused requests, `refusals`. Every function gets the connection that it works on."""

import dataclasses
import uuid
from collections.abc import Sequence

from psycopg.rows import dict_row

from chassis.db import Connection

MINUTE_US = 60 * 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Refused:
    """So many, in that minute since the epoch. `key_id` is empty where no key was known."""

    minute: int
    key_id: str
    code: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which page: rows after (minute, key id, code), of the newest minute first. What is empty or 0 doesn't matter."""

    after: tuple[int, str, str] | None = None
    limit: int = 0
    customer_id: str = ""
    key_id: str = ""
    code: str = ""
    from_us: int = 0
    to_us: int = 0


async def keep_totals(conn: Connection, spender: uuid.UUID, counts: Sequence[Refused]) -> None:
    """Sets an edge's totals; none becomes less. In one order, so that no two of these wait for each other."""
    async with conn.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO auth.refusals AS r (minute, key_id, code, spender, count) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (minute, key_id, code, spender) DO UPDATE SET count = greatest(r.count, excluded.count)",
            [(each.minute, each.key_id, each.code, spender, each.count) for each in sorted(counts)],
        )


async def sums(conn: Connection, wanted: Wanted) -> list[Refused]:
    """Over all edges, the newest minute first."""
    minute, after_key, after_code = wanted.after or (0, "", "")
    asked = {
        "minute <= %(minute)s AND (-minute, key_id, code) > (-%(minute)s, %(after_key)s, %(after_code)s)": wanted.after,
        "key_id IN (SELECT id::text FROM auth.api_keys WHERE customer_id = %(customer)s::uuid)": wanted.customer_id,
        "key_id = %(key)s": wanted.key_id,
        "code = %(code)s": wanted.code,
        "minute >= %(from)s": wanted.from_us,
        "minute < %(to)s": wanted.to_us,
    }
    # Only what was asked for, since a plan for all of them alike would use none of the indexes.
    conditions = " AND ".join(condition for condition, matters in asked.items() if matters) or "true"
    values = {
        "minute": minute,
        "after_key": after_key,
        "after_code": after_code,
        "customer": wanted.customer_id,
        "key": wanted.key_id,
        "code": wanted.code,
        "from": wanted.from_us // MINUTE_US,
        "to": -(-wanted.to_us // MINUTE_US),
        "limit": wanted.limit,
    }
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT minute, key_id, code, sum(count)::bigint AS count FROM auth.refusals"
            f" WHERE {conditions} GROUP BY minute, key_id, code ORDER BY minute DESC, key_id, code LIMIT %(limit)s",
            values,
        )
        return [Refused(**row) for row in await cursor.fetchall()]


async def forget(conn: Connection, *, before_minute: int, limit: int) -> int:
    """Deletes some of what is older, and says how much; what another replica deletes just now is left to it."""
    done = await conn.execute(
        "DELETE FROM auth.refusals WHERE ctid = ANY(ARRAY("
        "SELECT ctid FROM auth.refusals WHERE minute < %s ORDER BY minute LIMIT %s FOR UPDATE SKIP LOCKED))",
        (before_minute, limit),
    )
    return done.rowcount
