"""The tables of leased limits. Every function gets the connection that it works on.

What a spender may hold is decided between `read_books` and `write` of one transaction, under the subject's lock. Giving
back and expiring need no lock: each is one statement, and it only ever lowers what is held or turns it into counts.
"""

import dataclasses
import uuid
from collections.abc import Mapping, Sequence

from chassis.db import Connection
from services.auth.limit_windows import BUCKET_MS, WINDOW_BUCKETS, Books, Kind, Lease, Outcome, first_bucket

LOCK_WAIT_MS = 800
"""Callers get their 503 in under a second when a subject's lock isn't to be had."""
HOLD_MS = 2_000
"""A replica that stands still between reading and writing loses its transaction, so that the subject goes on."""
RENEWED_EVERY_MS = 1_000
"""A lease also says that its spender lives, but a row that all its leases would write is written once a second."""
DEAF_S = 10.0
"""Between two sweeps; when none came for longer, there was nobody to hear what spenders said."""
_NOW_BUCKET = f"ceil(extract(epoch FROM clock_timestamp()) * 1000 / {BUCKET_MS})::bigint"

_LOCK = (
    f"SELECT set_config('lock_timeout', '{LOCK_WAIT_MS}', true),"
    f" set_config('idle_in_transaction_session_timeout', '{HOLD_MS}', true), pg_advisory_xact_lock(%s)"
).encode()
_READ = b"""
    SELECT k.kind, (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
        (SELECT stated_at > clock_timestamp() - make_interval(secs => %(renewed)s / 1000.0)
            FROM auth.limit_spenders WHERE id = %(spender)s),
        own.held, own.spent, own.since, own.number,
        (SELECT coalesce(sum(held), 0)::bigint FROM auth.limit_leases
            WHERE subject = %(subject)s AND kind = k.kind AND spender <> %(spender)s),
        ARRAY(SELECT bucket FROM auth.limit_counts WHERE subject = %(subject)s AND kind = k.kind ORDER BY bucket),
        ARRAY(SELECT units FROM auth.limit_counts WHERE subject = %(subject)s AND kind = k.kind ORDER BY bucket)
    FROM unnest(%(kinds)s::smallint[]) AS k (kind)
    LEFT JOIN auth.limit_leases AS own
        ON own.spender = %(spender)s AND own.subject = %(subject)s AND own.kind = k.kind
"""
_WRITE = b"""
    WITH counted AS (
        INSERT INTO auth.limit_counts AS c (subject, kind, bucket, units)
        SELECT %(subject)s, kind, bucket, units
            FROM unnest(%(count_kinds)s::smallint[], %(buckets)s::bigint[], %(units)s::bigint[])
            AS n (kind, bucket, units) ORDER BY kind, bucket
        ON CONFLICT (subject, kind, bucket) DO UPDATE SET units = c.units + excluded.units
    ),
    expired AS (
        DELETE FROM auth.limit_counts
        WHERE subject = %(subject)s AND kind = ANY(%(kinds)s::smallint[]) AND bucket < %(first_bucket)s
    ),
    spoke AS (
        INSERT INTO auth.limit_spenders (id) SELECT %(spender)s WHERE %(renews)s
        ON CONFLICT (id) DO UPDATE SET stated_at = clock_timestamp()
    )
    INSERT INTO auth.limit_leases AS l (spender, subject, kind, held, spent, since, number)
    SELECT %(spender)s, %(subject)s, n.kind, n.held, n.spent, %(since)s, %(number)s
        FROM unnest(%(kinds)s::smallint[], %(held)s::bigint[], %(spent)s::bigint[]) AS n (kind, held, spent)
    ON CONFLICT (spender, subject, kind) DO UPDATE
        SET held = excluded.held, spent = excluded.spent, since = excluded.since, number = excluded.number
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a spender's statement: of the subjects in [from, until), those listed stay."""

    spender: uuid.UUID
    as_of: int
    listed: frozenset[uuid.UUID]
    from_id: uuid.UUID | None = None
    until_id: uuid.UUID | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was read under the lock; `is_fresh` when the spender was heard within the last second."""

    books: Mapping[Kind, Books]
    is_fresh: bool


async def read_books(connection: Connection, *, spender: uuid.UUID, subject: uuid.UUID, kinds: Sequence[Kind]) -> Found:
    """Locks the subject until the transaction ends, then reads: all in one round trip.

    The second statement sees what the lock's last owner committed, for each statement has a snapshot of its own.
    """
    async with connection.pipeline():
        await connection.execute(_LOCK, (_lock_of(subject),))
        cursor = await connection.execute(
            _READ,
            {"spender": spender, "subject": subject, "kinds": list(map(int, kinds)), "renewed": RENEWED_EVERY_MS},
        )
    books = {}
    is_fresh = True
    for kind, now_ms, fresh, held, spent, since, number, others, buckets, units in await cursor.fetchall():
        own = None if held is None else Lease(held=held, spent=spent, since=since, number=number)
        counts = list(zip(buckets, units, strict=True))
        books[Kind(kind)] = Books(now_ms=now_ms, counts=counts, held_by_others=others, own=own)
        is_fresh = bool(fresh)
    return Found(books=books, is_fresh=is_fresh)


async def write(
    connection: Connection, outcomes: Sequence[Outcome], *, spender: uuid.UUID, subject: uuid.UUID, found: Found
) -> None:
    """Writes what is new and commits: one round trip."""
    added = [(int(one.kind), *count) for one in outcomes for count in one.counted.items()]
    arguments = {
        "spender": spender,
        "subject": subject,
        "count_kinds": [kind for kind, _, _ in added],
        "buckets": [bucket for _, bucket, _ in added],
        "units": [units for _, _, units in added],
        "kinds": [int(one.kind) for one in outcomes],
        "held": [one.lease.held for one in outcomes],
        "spent": [one.lease.spent for one in outcomes],
        "since": outcomes[0].lease.since,
        "number": outcomes[0].lease.number,
        "first_bucket": first_bucket(found.books[outcomes[0].kind].now_ms),
        "renews": not found.is_fresh,
    }
    async with connection.pipeline():
        await connection.execute(_WRITE, arguments)
        await connection.commit()


async def state(connection: Connection, page: Page) -> int:
    """Renews the spender and frees what the page should list but doesn't; returns how many leases that were."""
    await connection.execute(
        "INSERT INTO auth.limit_spenders (id) VALUES (%s) ON CONFLICT (id) DO UPDATE SET stated_at = clock_timestamp()",
        (page.spender,),
    )
    cursor = await connection.execute(
        "DELETE FROM auth.limit_leases WHERE spender = %(spender)s AND number <= %(as_of)s"
        " AND (%(from)s::uuid IS NULL OR subject >= %(from)s) AND (%(until)s::uuid IS NULL OR subject < %(until)s)"
        " AND NOT EXISTS (SELECT FROM unnest(%(listed)s::uuid[]) AS listed (id) WHERE listed.id = subject)",
        {
            "spender": page.spender,
            "as_of": page.as_of,
            "from": page.from_id,
            "until": page.until_id,
            "listed": sorted(page.listed),
        },
    )
    return cursor.rowcount


async def end_spender(connection: Connection, spender: uuid.UUID) -> int:
    """Forgets a spender that is over, and counts what it held as spent now; returns how many leases that were."""
    await connection.execute("DELETE FROM auth.limit_spenders WHERE id = %s", (spender,))
    return await _expire(connection, spender)


async def listens_since_s(connection: Connection) -> float:
    """Says that somebody listens; the seconds since when that was said without a gap, by whichever replica."""
    cursor = await connection.execute(
        "INSERT INTO auth.limit_sweeps AS s DEFAULT VALUES ON CONFLICT (one) DO UPDATE SET"
        " listening_since = CASE WHEN s.swept_at < clock_timestamp() - make_interval(secs => %s)"
        " THEN clock_timestamp() ELSE s.listening_since END, swept_at = clock_timestamp()"
        " RETURNING extract(epoch FROM swept_at - listening_since)::float8",
        (DEAF_S,),
    )
    row = await cursor.fetchone()
    return float(row[0]) if row else 0.0


async def silent_spenders(connection: Connection, *, silent_s: float) -> list[uuid.UUID]:
    """Those who have said nothing for that long, and owners of leases of whom nothing is known."""
    cursor = await connection.execute(
        "SELECT id FROM auth.limit_spenders WHERE stated_at < clock_timestamp() - make_interval(secs => %s)"
        " UNION SELECT l.spender FROM auth.limit_leases AS l"
        " WHERE NOT EXISTS (SELECT FROM auth.limit_spenders AS s WHERE s.id = l.spender)",
        (silent_s,),
    )
    return [row[0] for row in await cursor.fetchall()]


async def expire_silent(connection: Connection, spender: uuid.UUID, *, silent_s: float) -> int:
    """Ends the spender if it is still silent; returns how many leases it had.

    Its row is locked first, and made where it is missing: who speaks meanwhile waits for us, or we see that it spoke.
    """
    await connection.execute(
        "INSERT INTO auth.limit_spenders (id, stated_at) VALUES (%s, '-infinity') ON CONFLICT (id) DO NOTHING",
        (spender,),
    )
    cursor = await connection.execute(
        "DELETE FROM auth.limit_spenders WHERE id = %s AND stated_at < clock_timestamp() - make_interval(secs => %s)",
        (spender, silent_s),
    )
    return await _expire(connection, spender) if cursor.rowcount else 0


async def forget_counts(connection: Connection, *, at_most: int) -> int:
    """Deletes what no longer counts of subjects that nobody asks about, but waits for nobody; returns how many."""
    cursor = await connection.execute(
        f"""
        DELETE FROM auth.limit_counts WHERE (subject, kind, bucket) IN (
            SELECT subject, kind, bucket FROM auth.limit_counts WHERE bucket < {_NOW_BUCKET} - {2 * WINDOW_BUCKETS}
            LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """.encode(),
        (at_most,),
    )
    return cursor.rowcount


async def units_held(connection: Connection) -> dict[Kind, int]:
    """Units that spenders hold, by kind."""
    cursor = await connection.execute("SELECT kind, sum(held)::bigint FROM auth.limit_leases GROUP BY kind")
    return {Kind(row[0]): int(row[1]) for row in await cursor.fetchall()}


async def _expire(connection: Connection, spender: uuid.UUID) -> int:
    """Of windows, what was held counts as spent now, for nobody knows; what ran is over."""
    cursor = await connection.execute(
        f"""
        WITH gone AS (DELETE FROM auth.limit_leases WHERE spender = %s RETURNING subject, kind, held),
        counted AS (
            INSERT INTO auth.limit_counts AS c (subject, kind, bucket, units)
            SELECT subject, kind, {_NOW_BUCKET}, held FROM gone
                WHERE held > 0 AND kind <> {int(Kind.CONCURRENT)} ORDER BY subject, kind
            ON CONFLICT (subject, kind, bucket) DO UPDATE SET units = c.units + excluded.units
        )
        SELECT FROM gone
        """.encode(),
        (spender,),
    )
    return cursor.rowcount


def _lock_of(subject: uuid.UUID) -> int:
    """The number of its advisory lock; two subjects with the same one only wait for each other."""
    return int.from_bytes(subject.bytes[8:], signed=True)
