"""Proof of the ledger: reads everything in one snapshot and counts what does not add up. Changes nothing.

`verify` is what `tollbridge ledger verify --json` prints; scripts rely on its shape, not on the tables. It trusts no
column that another could contradict: balances are summed from transfers, holds from their parts, charges from both.
"""

from collections.abc import Iterator, Sequence

import msgspec
import psycopg
from psycopg import sql

from services.billing.proof import seal_store
from services.billing.proof.seals import broken

MAX_EXAMPLES = 10
MAX_DIGITS = 18

# Each check selects one row per difference, its first column naming the culprit, and has a query of what it examined.
_CHECKS: tuple[tuple[str, str, str], ...] = (
    (
        "sum_is_zero",
        "SELECT count(*) FROM billing.transfers",
        """
        SELECT 'all accounts sum to ' || sum(amount) FROM (
            SELECT debit AS account, -amount::numeric AS amount FROM billing.transfers
            UNION ALL SELECT credit, amount::numeric FROM billing.transfers) movements
        HAVING sum(amount) <> 0
        """,
    ),
    (
        "chains_without_gaps",
        "SELECT count(*) FROM billing.transfers WHERE customer_id IS NOT NULL",
        """
        SELECT customer_id || ' at ' || version FROM (
            SELECT customer_id, version, balance_after,
                row_number() OVER chain AS position,
                sum(CASE WHEN credit = 'credits:' || customer_id THEN amount ELSE -amount END) OVER chain AS balance
            FROM billing.transfers WHERE customer_id IS NOT NULL
            WINDOW chain AS (PARTITION BY customer_id ORDER BY version)) links
        WHERE version <> position OR balance_after <> balance
        """,
    ),
    (
        "balances_are_sums",
        "SELECT count(*) FROM billing.ledger_accounts",
        """
        SELECT a.customer_id FROM billing.ledger_accounts a LEFT JOIN (
            SELECT customer_id, count(*) AS version,
                sum(CASE WHEN credit = 'credits:' || customer_id THEN amount ELSE -amount END) AS posted,
                sum(CASE WHEN kind = 'charge' THEN amount WHEN kind = 'refund' THEN -amount ELSE 0 END) AS used
            FROM billing.transfers WHERE customer_id IS NOT NULL GROUP BY customer_id) t USING (customer_id)
        WHERE a.posted <> coalesce(t.posted, 0) OR a.version <> coalesce(t.version, 0)
            OR a.used <> coalesce(t.used, 0) OR a.credited - a.used <> a.posted
        """,
    ),
    (
        "held_is_open_holds",
        "SELECT count(*) FROM billing.holds",
        """
        SELECT a.customer_id FROM billing.ledger_accounts a LEFT JOIN (
            SELECT customer_id, sum(amount - captured - freed) AS held
            FROM billing.holds WHERE state = 'open' GROUP BY customer_id) h USING (customer_id)
        WHERE a.held <> coalesce(h.held, 0)
        """,
    ),
    (
        "nobody_below_zero",
        "SELECT count(*) FROM billing.ledger_accounts",
        "SELECT customer_id FROM billing.ledger_accounts WHERE posted - held < 0 OR posted < 0 OR held < 0",
    ),
    (
        "charges_are_transfers",
        "SELECT count(*) FROM billing.usage_events",
        """
        SELECT coalesce(u.event_id, t.event_id) FROM (
            SELECT kind || ':' || request_id AS event_id, customer_id, abs(taken) AS taken, overage, charge
            FROM billing.usage_events, billing.usage_log
            WHERE kind <> 'void' AND charge <> 0 AND request_id >= kept_from) u
        FULL JOIN (
            SELECT event_id, max(customer_id) AS customer_id,
                coalesce(sum(amount) FILTER (WHERE customer_id IS NOT NULL), 0) AS taken,
                coalesce(sum(amount) FILTER (WHERE customer_id IS NULL), 0) AS overage
            FROM billing.transfers, billing.usage_log
            WHERE kind IN ('charge', 'refund') AND (request_id IS NULL OR request_id >= kept_from)
            GROUP BY event_id) t USING (event_id)
        WHERE u.event_id IS NULL OR t.event_id IS NULL OR u.taken <> t.taken OR u.overage <> t.overage
            OR u.customer_id <> coalesce(t.customer_id, u.customer_id)
        """,
    ),
    (
        "refunds_within_charges",
        "SELECT count(*) FROM billing.transfers WHERE kind = 'refund'",
        """
        SELECT r.event_id FROM billing.transfers r LEFT JOIN billing.transfers c ON c.id = r.reverses
        WHERE r.kind = 'refund' AND (c.id IS NULL OR c.kind <> 'charge' OR c.leg <> 0 OR r.amount > c.amount
            OR c.customer_id <> r.customer_id)
        """,
    ),
    (
        "caps_are_sums",
        "SELECT count(*) FROM billing.cap_accounts",
        """
        SELECT id FROM (SELECT id, spent + overrun AS paid, held FROM billing.cap_accounts) c
        FULL JOIN (
            SELECT id, sum(paid) AS paid, sum(held) AS held FROM (
                SELECT unnest(cap_ids) AS id, CASE kind WHEN 'charge' THEN amount ELSE -amount END AS paid, 0 AS held
                FROM billing.transfers WHERE cap_ids IS NOT NULL
                UNION ALL SELECT unnest(cap_ids), 0, amount - captured - freed FROM billing.holds
                WHERE cap_ids IS NOT NULL AND state = 'open') parts
            GROUP BY id) s USING (id)
        WHERE c.paid IS NULL OR c.paid <> coalesce(s.paid, 0) OR c.held <> coalesce(s.held, 0)
        """,
    ),
    (
        "payments_are_transfers",
        "SELECT count(*) FROM billing.payments",
        """
        SELECT coalesce(p.event_id, t.event_id) FROM (
            SELECT 'payment:' || id AS event_id, credited AS amount, customer_id
            FROM billing.payments WHERE credited > 0
            UNION ALL SELECT 'reversals:' || id, reversed, customer_id FROM billing.payments WHERE reversed > 0) p
        FULL JOIN (
            SELECT CASE kind WHEN 'payment' THEN event_id ELSE 'reversals:' || split_part(event_id, ':', 2) END
                AS event_id, sum(amount) AS amount, max(customer_id) AS customer_id
            FROM billing.transfers WHERE kind IN ('payment', 'reversal') GROUP BY 1) t USING (event_id)
        WHERE p.event_id IS NULL OR t.event_id IS NULL OR p.amount <> t.amount
            OR p.customer_id <> coalesce(t.customer_id, p.customer_id)
        """,
    ),
)
_ACCOUNTS = """
    SELECT account, sum(amount)::text FROM (
        SELECT debit AS account, -amount::numeric AS amount FROM billing.transfers
        UNION ALL SELECT credit, amount::numeric FROM billing.transfers) movements
    WHERE account NOT LIKE 'credits:%%' GROUP BY account ORDER BY account
"""
_FIGURES = """
    SELECT (SELECT count(*) FROM billing.ledger_accounts),
        (SELECT coalesce(sum(posted), 0) FROM billing.ledger_accounts)::text,
        (SELECT coalesce(sum(held), 0) FROM billing.ledger_accounts)::text,
        (SELECT count(*) FROM billing.holds WHERE state = 'open'),
        (SELECT count(*) FROM billing.transfers),
        (SELECT count(*) FROM billing.usage_events WHERE kind = 'charge'),
        (SELECT count(*) FROM billing.usage_events WHERE kind = 'void'),
        (SELECT coalesce(sum(charge), 0) FROM billing.usage_events WHERE kind = 'charge')::text,
        (SELECT count(*) FROM billing.dead_letters WHERE resolved_at IS NULL),
        (SELECT coalesce(sum(cardinality(transfer_ids)), 0)::bigint FROM billing.outbox)
"""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check: how many rows it looked at, how many differ, and the first of those."""

    name: str
    examined: int
    differences: int
    examples: list[str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the ledger in one snapshot. Amounts in nano-USD.

    `clean` is about arithmetic only: open holds, dead letters and an outbox under way are states, not differences.
    House accounts are credits − debits, so revenue is positive and losses are negative.
    """

    clean: bool
    checks: list[Check]
    customers: int
    balance_nano_usd: int
    held_nano_usd: int
    open_holds: int
    transfers: int
    charges: int
    voids: int
    charged_nano_usd: int
    dead_letters: int
    outbox: int
    house_nano_usd: dict[str, int]
    newest_seal: str


def verify(url: str, *, kept_seal: str = "") -> Report:
    """Checks the whole ledger in one read-only snapshot, and whether it still has a seal that was kept elsewhere.

    Raises psycopg.Error when the database can't be read.
    """
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            checks = [_check(connection, name, examined, differences) for name, examined, differences in _CHECKS]
            checks += [_counted(connection, *chained) for chained in _chained(connection)]
            if kept_seal:
                checks.append(_counted(connection, "kept_seal", "SELECT 1", _kept(connection, kept_seal)))
            newest = seal_store.seal_at(connection, None)
            house = {name: int(amount) for name, amount in _rows(connection, _ACCOUNTS.replace("%%", "%"))}
            figures = _rows(connection, _FIGURES)[0]
    return Report(
        clean=all(check.differences == 0 for check in checks),
        checks=checks,
        customers=figures[0],
        balance_nano_usd=int(figures[1]),
        held_nano_usd=int(figures[2]),
        open_holds=figures[3],
        transfers=figures[4],
        charges=figures[5],
        voids=figures[6],
        charged_nano_usd=int(figures[7]),
        dead_letters=figures[8],
        outbox=figures[9],
        house_nano_usd=house,
        newest_seal=newest.name if newest else "",
    )


def _check(connection: psycopg.Connection, name: str, examined: str, differences: str) -> Check:
    found = _rows(connection, differences)
    return Check(
        name=name,
        examined=_rows(connection, examined)[0][0],
        differences=len(found),
        examples=[str(row[0]) for row in found[:MAX_EXAMPLES]],
    )


def _chained(connection: psycopg.Connection) -> Iterator[tuple[str, str, Iterator[str]]]:
    """The checks of the hash chain: a name, what is counted as examined, and what is found."""
    yield "seals_are_unbroken", "SELECT count(*) FROM billing.ledger_seals", broken(seal_store.each(connection))
    yield "transfers_are_sealed", "SELECT count(*) FROM billing.transfers", seal_store.unsealed(connection)


def _kept(connection: psycopg.Connection, kept: str) -> Iterator[str]:
    number = kept.partition(":")[0]
    found = seal_store.seal_at(connection, int(number)) if number.isdecimal() and len(number) < MAX_DIGITS else None
    if found is None or found.name != kept:
        yield f"{kept} was kept; the ledger has {found.name if found else 'no such seal'}"


def _counted(connection: psycopg.Connection, name: str, examined: str, found: Iterator[str]) -> Check:
    named = list(found)
    count = _rows(connection, examined)[0][0]
    return Check(name=name, examined=count, differences=len(named), examples=named[:MAX_EXAMPLES])


def _rows(connection: psycopg.Connection, query: str) -> Sequence[psycopg.rows.TupleRow]:
    return connection.execute(sql.SQL(query)).fetchall()
