"""Router's tables: price versions, slots, spenders. Every function gets the connection that it works on.

A slot is a row, and its account counts its rows: both change in one transaction under the account's row lock, so that
replicas together never exceed `slots`. Whoever locks several accounts locks them in order of id.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from chassis.db import Connection
from pricing.prices import PriceVersion
from services.router.attempts import Page
from services.router.pricebook import content_of, from_content
from services.router.slot_batches import Batch, Done
from services.router.slot_desk import Stated

FIRST_ID = "00000000-0000-0000-0000-000000000000"

# `locked` waits for the accounts' locks and sees what those who had them left behind; what follows counts from there.
_TURN = """
    WITH asked AS MATERIALIZED (
        SELECT *
        FROM unnest(%(attempts)s::uuid[], %(requests)s::uuid[], %(accounts)s::text[], %(spenders)s::uuid[])
            WITH ORDINALITY AS given (attempt_id, request_id, account_id, spender, number)
    ),
    over AS MATERIALIZED (SELECT unnest(%(over)s::uuid[]) AS attempt_id),
    locked AS MATERIALIZED (
        SELECT id, slots - in_use AS room FROM router.provider_accounts
        WHERE id IN (
            SELECT account_id FROM asked UNION SELECT account_id FROM router.slots JOIN over USING (attempt_id)
        )
        ORDER BY id FOR UPDATE
    ),
    gone AS (
        DELETE FROM router.slots AS s USING over, locked
        WHERE s.attempt_id = over.attempt_id AND s.account_id = locked.id
        RETURNING s.attempt_id, s.account_id
    ),
    forgotten AS (DELETE FROM router.lapsed_slots AS l USING over WHERE l.attempt_id = over.attempt_id),
    held AS (SELECT s.attempt_id, s.account_id FROM router.slots AS s JOIN asked USING (attempt_id)),
    queued AS (
        SELECT *, row_number() OVER (PARTITION BY account_id ORDER BY number) AS place FROM asked
        WHERE NOT EXISTS (SELECT FROM held WHERE held.attempt_id = asked.attempt_id)
    ),
    made AS (
        INSERT INTO router.slots (attempt_id, request_id, account_id, spender)
        SELECT attempt_id, request_id, account_id, spender FROM queued JOIN locked ON locked.id = queued.account_id
        WHERE place <= room + (SELECT count(*) FROM gone WHERE gone.account_id = queued.account_id)
        RETURNING attempt_id, account_id
    ),
    counted AS (
        UPDATE router.provider_accounts AS a SET in_use = in_use + change
        FROM (
            SELECT account_id, sum(one) AS change
            FROM (SELECT account_id, 1 AS one FROM made UNION ALL SELECT account_id, -1 FROM gone) AS each
            GROUP BY account_id
        ) AS changed
        WHERE a.id = changed.account_id AND change <> 0
    )
    SELECT true, attempt_id::text, account_id FROM gone
    UNION ALL SELECT false, attempt_id::text, account_id FROM held
    UNION ALL SELECT false, attempt_id::text, account_id FROM made
"""

# Prices


async def store_prices(connection: Connection, prices: Iterable[PriceVersion]) -> None:
    """Stores those that aren't there yet."""
    rows = [(price.id, msgspec.json.encode(content_of(price)).decode()) for price in prices]
    await connection.execute(
        "INSERT INTO router.price_versions (id, content)"
        " SELECT id, content::jsonb FROM unnest(%s::text[], %s::text[]) AS given (id, content) ORDER BY id"
        " ON CONFLICT (id) DO NOTHING",
        ([row[0] for row in rows], [row[1] for row in rows]),
    )


async def read_price(connection: Connection, price_id: str) -> PriceVersion | None:
    """The version with that id. Raises ValueError when its content no longer has that hash."""
    cursor = await connection.execute("SELECT content::text FROM router.price_versions WHERE id = %s", (price_id,))
    row = await cursor.fetchone()
    if row is None:
        return None
    price = from_content(str(row[0]))
    if price.id != price_id:
        raise ValueError(f"price version {price_id} does not have its own hash")
    return price


# Accounts and slots


async def store_accounts(connection: Connection, slots: Mapping[str, int]) -> None:
    """Says how many slots the accounts have from now on."""
    ids = sorted(slots)
    await connection.execute(
        "INSERT INTO router.provider_accounts (id, slots)"
        " SELECT id, slots FROM unnest(%s::text[], %s::bigint[]) AS given (id, slots) ORDER BY id"
        " ON CONFLICT (id) DO UPDATE SET slots = excluded.slots WHERE provider_accounts.slots <> excluded.slots",
        (ids, [slots[name] for name in ids]),
    )


async def turn(connection: Connection, batch: Batch) -> Done:
    """Gives back and takes slots in one statement: an account counts what was given back before who takes one.

    An attempt that holds a slot already keeps it, whichever account is asked for. Raises UniqueViolation when one of
    them takes a slot elsewhere in this moment: ask again.
    """
    takes = batch.takes
    cursor = await connection.execute(
        _TURN,
        {
            "over": list(batch.over),
            "attempts": [take.attempt_id for take in takes],
            "requests": [take.request_id for take in takes],
            "accounts": [take.account_id for take in takes],
            "spenders": [take.spender for take in takes],
        },
    )
    over, held = dict[str, str](), dict[str, str]()
    for is_over, attempt_id, account_id in await cursor.fetchall():
        (over if is_over else held)[attempt_id] = account_id
    return Done(over=over, held=held)


async def state_spender(connection: Connection, page: Page) -> None:
    """Renews the spender, keeps the page for all replicas, and frees those slots that it should list but doesn't.

    What it lists and had lost by its silence is counted again, also beyond the account's slots: it runs. A page of an
    older statement than the latest is executed late: what it omits is over all the same, but it renews nothing.
    """
    cursor = await connection.execute(
        "INSERT INTO router.spenders AS s (id, as_of) VALUES (%s, %s)"
        " ON CONFLICT (id) DO UPDATE SET stated_at = clock_timestamp(), as_of = excluded.as_of"
        " WHERE s.as_of IS NULL OR s.as_of <= excluded.as_of RETURNING id",
        (page.spender, page.as_of),
    )
    if await cursor.fetchone():
        await _keep_page(connection, page)
        await _take_again(connection, page)
    await _free(
        connection,
        "spender = %s AND attempt_id >= %s AND attempt_id < %s"
        " AND NOT EXISTS (SELECT FROM unnest(%s::uuid[]) AS listed (id) WHERE listed.id = attempt_id)",
        (page.spender, page.from_id or FIRST_ID, page.end_id, sorted(page.listed)),
    )


async def _keep_page(connection: Connection, page: Page) -> None:
    await connection.execute(
        "DELETE FROM router.statements WHERE spender = %s AND as_of < %s", (page.spender, page.as_of)
    )
    await connection.execute(
        "INSERT INTO router.statements (spender, from_id, end_id, as_of, listed) VALUES (%s, %s, %s, %s, %s::uuid[])"
        " ON CONFLICT (spender, from_id) DO UPDATE SET end_id = excluded.end_id, listed = excluded.listed",
        (page.spender, page.from_id or FIRST_ID, page.end_id, page.as_of, sorted(page.listed)),
    )


async def _take_again(connection: Connection, page: Page) -> None:
    condition = "spender = %s AND attempt_id = ANY(%s::uuid[])"
    lapsed = (page.spender, sorted(page.listed))
    cursor = await connection.execute(
        "SELECT id FROM router.provider_accounts WHERE id IN"
        f" (SELECT account_id FROM router.lapsed_slots WHERE {condition}) ORDER BY id FOR UPDATE".encode(),
        lapsed,
    )
    if not await cursor.fetchall():
        return
    await connection.execute(
        f"""
        WITH back AS (
            DELETE FROM router.lapsed_slots WHERE {condition} RETURNING attempt_id, request_id, account_id, spender
        ),
        made AS (
            INSERT INTO router.slots (attempt_id, request_id, account_id, spender) SELECT * FROM back
            ON CONFLICT (attempt_id) DO NOTHING RETURNING account_id
        )
        UPDATE router.provider_accounts AS a SET in_use = in_use + n
        FROM (SELECT account_id, count(*) AS n FROM made GROUP BY account_id) AS each WHERE a.id = each.account_id
        """.encode(),
        lapsed,
    )


async def read_statements(connection: Connection, spenders: Collection[str], *, silent_s: float) -> Stated:
    """The latest statements of these spenders, and who of them has said nothing for that long."""
    cursor = await connection.execute(
        """
        SELECT s.id::text, p.as_of::text, p.from_id::text, p.end_id::text, p.listed::text[]
        FROM router.spenders AS s LEFT JOIN router.statements AS p ON p.spender = s.id
        WHERE s.id = ANY(%s::uuid[]) AND s.stated_at >= clock_timestamp() - make_interval(secs => %s)
        """,
        (list(spenders), silent_s),
    )
    found = await cursor.fetchall()
    pages = [
        Page(spender=spender, as_of=as_of, from_id=from_id, until_id=end_id, listed=frozenset(listed))
        for spender, as_of, from_id, end_id, listed in found
        if as_of is not None
    ]
    return Stated(pages=pages, silent=frozenset(spenders) - {str(row[0]) for row in found})


async def expire_silent(connection: Connection, *, silent_s: float) -> int:
    """Frees the slots of spenders that have said nothing for that long; returns how many.

    They are kept in mind for an hour, for a spender that has not died but stood still.
    """
    silence = "clock_timestamp() - make_interval(secs => %s)"
    freed = await _free(
        connection,
        f"taken_at < {silence} AND NOT EXISTS (SELECT FROM router.spenders AS s"
        f" WHERE s.id = slots.spender AND s.stated_at >= {silence})",
        (silent_s, silent_s),
        also=", kept AS (INSERT INTO router.lapsed_slots (attempt_id, request_id, account_id, spender)"
        " SELECT attempt_id, request_id, account_id, spender FROM gone ON CONFLICT DO NOTHING)",
    )
    await connection.execute("DELETE FROM router.lapsed_slots WHERE lapsed_at < clock_timestamp() - interval '1 hour'")
    await connection.execute(
        f"DELETE FROM router.spenders AS s WHERE s.stated_at < {silence} - interval '1 hour'"
        " AND NOT EXISTS (SELECT FROM router.slots WHERE spender = s.id)",
        (silent_s,),
    )
    return len(freed)


async def slots_in_use(connection: Connection) -> dict[str, int]:
    """Slots taken, by account."""
    cursor = await connection.execute("SELECT id, in_use FROM router.provider_accounts")
    return {str(row[0]): int(row[1]) for row in await cursor.fetchall()}


async def count_accounts(connection: Connection) -> int:
    """How many accounts have limited slots; also the cheapest sign that the database answers."""
    cursor = await connection.execute("SELECT count(*) FROM router.provider_accounts")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def _free(
    connection: Connection,
    condition: str,
    parameters: tuple[object, ...],
    *,
    also: str = "",
) -> dict[str, str]:
    """Frees slots by a condition of ours on router.slots: locks their accounts in order, deletes, counts down.

    `also` is one more part of that statement, which may be about the rows that are `gone`.
    """
    await connection.execute(
        "SELECT FROM router.provider_accounts WHERE id IN"
        f" (SELECT account_id FROM router.slots WHERE {condition}) ORDER BY id FOR UPDATE".encode(),
        parameters,
    )
    cursor = await connection.execute(
        f"""
        WITH gone AS (
            DELETE FROM router.slots WHERE {condition} RETURNING attempt_id, request_id, account_id, spender
        ),
        counted AS (
            UPDATE router.provider_accounts AS a SET in_use = in_use - n
            FROM (SELECT account_id, count(*) AS n FROM gone GROUP BY account_id) AS each
            WHERE a.id = each.account_id
        ){also}
        SELECT attempt_id::text, account_id FROM gone
        """.encode(),
        parameters,
    )
    return {str(row[0]): str(row[1]) for row in await cursor.fetchall()}
