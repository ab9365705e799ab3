"""SQL of holds: granting many at once, statements of spenders, and what is due to expire.

A grant is one round trip and one commit for all calls that wait together. It locks the accounts in sorted order, then
grants in the order of asking while a customer's money lasts, and never more: what doesn't fit is told apart by the
caller, and `no_overspend` stands behind it all.
"""

import dataclasses
import datetime
from collections.abc import Sequence
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from chassis.db import Connection
from chassis.ids import unix_ms
from services.billing import array_sql
from services.billing.holding.holds import HoldKind, HoldState

# The locks come in a statement of their own, so that the snapshot of the next one is taken when they are held: a
# statement that locks and reads at once reads some of its rows as they were before it waited.
_LOCK = """
    SELECT customer_id FROM billing.ledger_accounts WHERE customer_id = ANY(%s) ORDER BY customer_id FOR NO KEY UPDATE
"""
_REPLACE = """
    WITH replaced AS MATERIALIZED (
        SELECT h.id, h.customer_id, h.amount - h.captured - h.freed AS rest
        FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS r (id, customer_id, spender)
        JOIN billing.holds h ON h.id = r.id AND h.customer_id = r.customer_id AND h.spender = r.spender
        WHERE h.kind = 'lease' AND h.state = 'open' AND NOT h.pinned AND h.cap_ids IS NULL
        ORDER BY h.id FOR NO KEY UPDATE OF h
    ), settled AS (
        UPDATE billing.holds h SET state = 'settled', freed = h.amount - h.captured
        FROM replaced WHERE h.id = replaced.id
    )
    UPDATE billing.ledger_accounts a SET held = a.held - r.rest
    FROM (SELECT customer_id, sum(rest)::bigint AS rest FROM replaced GROUP BY customer_id) r
    WHERE a.customer_id = r.customer_id
"""
_GRANT = """
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::uuid[], %s::text[],
            %s::bigint[], %s::bigint[], %s::boolean[]) WITH ORDINALITY
            AS a(id, customer_id, kind, spender, amount, request_id, key_id, deadline_us, wish, spare, n)
    ), accounts AS MATERIALIZED (
        SELECT customer_id, posted, held FROM billing.ledger_accounts
        WHERE customer_id IN (SELECT customer_id FROM asked)
    ), known AS MATERIALIZED (
        SELECT h.id, h.customer_id, h.spender, h.amount, h.state
        FROM billing.holds h WHERE h.id IN (SELECT id FROM asked)
    ), shares AS MATERIALIZED (
        SELECT asked.*, posted - held AS room, CASE WHEN wish > amount OR spare THEN (posted - held) / (4 * (1 + (
                SELECT count(DISTINCT h.spender) FROM billing.holds h WHERE h.customer_id = asked.customer_id
                    AND h.kind = 'lease' AND h.state = 'open' AND h.spender <> asked.spender
            ))) END AS share
        FROM asked JOIN accounts ON accounts.customer_id = asked.customer_id
        WHERE asked.id NOT IN (SELECT id FROM known)
    ), sized AS MATERIALIZED (
        SELECT *, greatest(amount, least(wish, share)) AS size FROM shares
        WHERE amount <= room AND (NOT spare OR share >= amount)
    ), fits AS MATERIALIZED (
        SELECT *, room - sum(size) OVER (PARTITION BY customer_id ORDER BY n) AS rest FROM sized
    ), granted AS (
        INSERT INTO billing.holds (id, customer_id, kind, spender, amount, stated, request_id, key_id, expires_at)
        SELECT id, customer_id, kind, spender, size, size, CASE WHEN size = amount THEN request_id END, key_id,
            CASE WHEN deadline_us > 0 THEN 'epoch'::timestamptz + deadline_us * interval '1 microsecond'
                ELSE now() + %s * interval '1 second' END
        FROM fits WHERE rest >= 0
        ON CONFLICT (id) DO NOTHING
        RETURNING id, customer_id, amount
    ), moved AS (
        UPDATE billing.ledger_accounts a SET held = a.held + g.total
        FROM (SELECT customer_id, sum(amount)::bigint AS total FROM granted GROUP BY customer_id) g
        WHERE a.customer_id = g.customer_id
        RETURNING a.customer_id, a.held
    )
    SELECT asked.id, granted.amount, accounts.posted, coalesce(moved.held, accounts.held),
        known.customer_id, known.spender, known.amount, known.state, now()
    FROM asked
    LEFT JOIN granted ON granted.id = asked.id
    LEFT JOIN accounts ON accounts.customer_id = asked.customer_id
    LEFT JOIN moved ON moved.customer_id = asked.customer_id
    LEFT JOIN known ON known.id = asked.id
"""
_RENEW = """
    WITH stated AS MATERIALIZED (
        SELECT * FROM unnest(%s::uuid[], %s::bigint[], %s::boolean[]) AS s(id, unfinished, has_free)
    ), mine AS MATERIALIZED (
        SELECT id FROM billing.holds
        WHERE id IN (SELECT id FROM stated) AND spender = %s AND kind = 'lease' AND state = 'open' AND NOT lapsed
        ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE billing.holds h
    SET stated = CASE WHEN h.stated_as_of > %s THEN h.stated ELSE s.unfinished END,
        stated_as_of = greatest(h.stated_as_of, %s), expires_at = now() + %s * interval '1 second',
        answered_at = CASE WHEN s.has_free THEN h.answered_at ELSE greatest(h.answered_at,
            least(now(), 'epoch'::timestamptz + %s * interval '1 millisecond')) END
    FROM stated s JOIN mine ON mine.id = s.id
    WHERE h.id = s.id AND h.state = 'open'
    RETURNING h.id
"""
_RETURNED = """
    SELECT h.id, h.customer_id FROM unnest(%s::uuid[], %s::bigint[]) AS s(id, returned)
    JOIN billing.holds h ON h.id = s.id
    WHERE h.spender = %s AND h.kind = 'lease' AND h.state = 'open' AND NOT h.lapsed AND h.freed < s.returned
    ORDER BY h.id
"""
# What a lease of one request holds is spent; of one for many, a part may be free until its spender says that none is.
# Statements tell their time in milliseconds.
_UNANSWERED = """
    SELECT coalesce(sum(amount - captured - freed), 0)::bigint FROM billing.holds
    WHERE customer_id = %s AND kind = 'lease' AND state = 'open' AND NOT pinned
        AND coalesce(answered_at, CASE WHEN request_id IS NULL THEN '-infinity' ELSE granted_at END)
            < date_trunc('milliseconds', %s::timestamptz)
"""
# A dead letter keeps a request's lease whole, and of one for many only its charge (see `letter_store.kept_of_leases`).
_CAN_END = """(NOT pinned OR kind = 'lease' AND request_id IS NULL AND EXISTS (SELECT FROM billing.dead_letters d
        WHERE d.hold_id = holds.id AND d.customer_id = holds.customer_id AND d.resolved_at IS NULL))"""
_UNLISTED = f"""
    SELECT id, customer_id FROM billing.holds
    WHERE spender = %s AND kind = 'lease' AND state = 'open' AND id >= %s AND id < %s
        AND (NOT lapsed OR %s) AND {_CAN_END}
        AND NOT EXISTS (SELECT FROM unnest(%s::uuid[]) AS listed (id) WHERE listed.id = holds.id)
    ORDER BY id LIMIT %s
"""
# The time is told also where nothing is due.
_DUE = f"""
    SELECT (extract(epoch FROM now()) * 1000000)::bigint, due.id, due.customer_id
    FROM (SELECT) AS one LEFT JOIN (
        SELECT id, customer_id FROM billing.holds
        WHERE state = 'open' AND expires_at < now() AND {_CAN_END} ORDER BY expires_at LIMIT %s
    ) AS due ON true
"""
_EXTEND = """
    UPDATE billing.holds
    SET expires_at = greatest(expires_at, 'epoch'::timestamptz + %s * interval '1 microsecond')
    WHERE id = %s AND state = 'open' AND kind <> 'lease'
"""
_OPEN = """
    SELECT kind, count(*), coalesce(sum(amount - captured - freed), 0)::bigint FROM billing.holds
    WHERE state = 'open' GROUP BY kind
"""
_OWNER = "SELECT customer_id, spender FROM billing.holds WHERE id = %s"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A hold that somebody wants, exactly of this amount. `deadline_us` 0: it lives as long as a lease.

    `replaces` names an earlier lease of the same spender and customer that ends with the asking, granted or not.
    With a `wish` more is granted where the customer has plenty, and then the lease is for no single request; one that
    nobody waits for (`spare`) is granted only then.
    """

    hold_id: UUID
    customer_id: str
    kind: HoldKind
    spender: str
    amount_nano_usd: int
    request_id: UUID | None = None
    key_id: str = ""
    deadline_us: int = 0
    replaces: UUID | None = None
    wish_nano_usd: int = 0
    spare: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The hold that already has the asked id."""

    customer_id: str
    spender: str
    amount_nano_usd: int
    state: HoldState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of an Ask. `posted_nano_usd` is None when the customer has no account.

    Neither granted nor known: there was no room, or another transaction was granting the same id just then. `at` is the
    database's time of it.
    """

    granted_nano_usd: int | None
    posted_nano_usd: int | None
    held_nano_usd: int
    known: Known | None
    at: datetime.datetime

    @property
    def available_nano_usd(self) -> int:
        """What is left after everything that was granted together."""
        return (self.posted_nano_usd or 0) - self.held_nano_usd


async def send_grant(connection: Connection, asks: Sequence[Ask], *, lease_lives_s: float) -> AsyncCursor[TupleRow]:
    """Ends what they replace and grants what fits, in this order.

    Atomic, and safe to repeat with the same ids; no id may be there twice.
    """
    await connection.execute(_LOCK, (array_sql.texts(sorted({ask.customer_id for ask in asks})),))
    ending = [ask for ask in asks if ask.replaces is not None]
    if ending:
        replaced: list[object] = [
            array_sql.ids(ask.replaces for ask in ending),
            array_sql.texts(ask.customer_id for ask in ending),
            array_sql.texts(ask.spender for ask in ending),
        ]
        await connection.execute(_REPLACE, replaced)
    columns: list[object] = [
        array_sql.ids(ask.hold_id for ask in asks),
        array_sql.texts(ask.customer_id for ask in asks),
        array_sql.texts(ask.kind for ask in asks),
        array_sql.texts(ask.spender for ask in asks),
        array_sql.numbers(ask.amount_nano_usd for ask in asks),
        array_sql.ids(ask.request_id for ask in asks),
        array_sql.texts(ask.key_id for ask in asks),
        array_sql.numbers(ask.deadline_us for ask in asks),
        array_sql.numbers(ask.wish_nano_usd for ask in asks),
        array_sql.flags(ask.spare for ask in asks),
    ]
    return await connection.execute(_GRANT, [*columns, lease_lives_s])


async def read_answers(cursor: AsyncCursor[TupleRow], asks: Sequence[Ask]) -> list[Answer]:
    """What `send_grant` answers, in the order of asking."""
    answers: dict[UUID, Answer] = {}
    for hold_id, granted, posted, held, customer, spender, amount, state, at in await cursor.fetchall():
        known = None
        if customer is not None:
            known = Known(customer_id=customer, spender=spender, amount_nano_usd=amount, state=HoldState(state))
        answers[hold_id] = Answer(
            granted_nano_usd=granted, posted_nano_usd=posted, held_nano_usd=held or 0, known=known, at=at
        )
    return [answers[ask.hold_id] for ask in asks]


async def renew(
    connection: Connection,
    *,
    spender: str,
    unfinished: Sequence[tuple[UUID, int, bool]],
    as_of: UUID,
    lease_lives_s: float,
) -> set[UUID]:
    """Prolongs a spender's leases and notes open + spent of each as of then; returns those that are still its own.

    The third item says that a part of the lease is free: if none is, its spender has nothing to be asked for. That
    holds as of then by the spender's clock, since a statement may come late; a clock that is behind makes refusals 503.
    """
    columns = [[item[0] for item in unfinished], [item[1] for item in unfinished], [item[2] for item in unfinished]]
    cursor = await connection.execute(_RENEW, (*columns, spender, as_of, as_of, lease_lives_s, unix_ms(as_of)))
    return {row[0] for row in await cursor.fetchall()}


async def returned(
    connection: Connection, *, spender: str, returned: Sequence[tuple[UUID, int]]
) -> list[tuple[UUID, str]]:
    """Those of a spender's leases of which it has given back more than was freed, with their customers."""
    cursor = await connection.execute(
        _RETURNED, ([item[0] for item in returned], [item[1] for item in returned], spender)
    )
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def unanswered(connection: Connection, *, customer_id: str, since: datetime.datetime) -> int:
    """What a customer's leases hold whose spenders have not said since then that nothing of it is free."""
    cursor = await connection.execute(_UNANSWERED, (customer_id, since))
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def unlisted(
    connection: Connection,
    *,
    spender: str,
    listed: Sequence[UUID],
    from_id: UUID,
    until_id: UUID,
    with_lapsed: bool,
    limit: int,
) -> list[tuple[UUID, str]]:
    """A spender's leases in [from, until) that its statement does not name, with their customers."""
    cursor = await connection.execute(_UNLISTED, (spender, from_id, until_id, with_lapsed, list(listed), limit))
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def due(connection: Connection, *, limit: int) -> tuple[int, list[tuple[UUID, str]]]:
    """The database's time in microseconds, and holds whose time is over then, with their customers."""
    cursor = await connection.execute(_DUE, (limit,))
    rows = await cursor.fetchall()
    return rows[0][0], [(row[1], row[2]) for row in rows if row[1] is not None]


async def open_by_kind(connection: Connection) -> dict[str, tuple[int, int]]:
    """Open holds, and what they hold in nano-USD, by kind."""
    cursor = await connection.execute(_OPEN)
    return {row[0]: (row[1], row[2]) for row in await cursor.fetchall()}


async def extend(connection: Connection, *, hold_id: UUID, deadline_us: int) -> bool:
    """Moves a task's or exact hold's deadline to a later time; False when there is no such open hold."""
    cursor = await connection.execute(_EXTEND, (deadline_us, hold_id))
    return cursor.rowcount == 1


async def owner(connection: Connection, hold_id: UUID) -> tuple[str, str] | None:
    """Customer and spender of a hold."""
    cursor = await connection.execute(_OWNER, (hold_id,))
    row = await cursor.fetchone()
    return (row[0], row[1]) if row else None
