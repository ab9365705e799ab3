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
    after = wanted.after or (0, "", "")
    asked = {
        "is_first": wanted.after is None,
        "minute": after[0],
        "after_key": after[1],
        "after_code": after[2],
        "customer": wanted.customer_id or None,
        "key": wanted.key_id,
        "code": wanted.code,
        "from": wanted.from_us // MINUTE_US,
        "to": -(-wanted.to_us // MINUTE_US),
        "limit": wanted.limit,
    }
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT minute, key_id, code, sum(count)::bigint AS count FROM auth.refusals"
            " WHERE (%(is_first)s OR (-minute, key_id, code) > (-%(minute)s, %(after_key)s, %(after_code)s))"
            " AND (%(customer)s::uuid IS NULL OR key_id IN"
            " (SELECT id::text FROM auth.api_keys WHERE customer_id = %(customer)s::uuid))"
            " AND (%(key)s = '' OR key_id = %(key)s) AND (%(code)s = '' OR code = %(code)s)"
            " AND minute >= %(from)s AND (%(to)s = 0 OR minute < %(to)s)"
            " GROUP BY minute, key_id, code ORDER BY minute DESC, key_id, code LIMIT %(limit)s",
            asked,
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
