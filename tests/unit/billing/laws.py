"""The invariants I1 to I6 and I9 of money.md, checked on PostgreSQL's rows by arithmetic of their own."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row


class Rows(NamedTuple):
    """What the database says about some customers and requests, in one snapshot."""

    accounts: Sequence[Any]
    transfers: Sequence[Any]
    holds: Sequence[Any]
    usage: Sequence[Any]


def rows_of(url: str, customers: Sequence[str], requests: Sequence[UUID]) -> Rows:
    """All rows of these customers and requests."""
    with psycopg.connect(url, row_factory=namedtuple_row) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        whose = (list(customers), list(requests))
        return Rows(
            connection.execute(
                "SELECT customer_id, posted, held, version FROM billing.ledger_accounts WHERE customer_id = ANY(%s)",
                whose[:1],
            ).fetchall(),
            connection.execute(
                """
                SELECT id, debit, credit, amount, kind, event_id, leg, reverses, request_id, customer_id, version,
                    balance_after
                FROM billing.transfers WHERE customer_id = ANY(%s) OR request_id = ANY(%s) ORDER BY version
                """,
                whose,
            ).fetchall(),
            connection.execute(
                """
                SELECT id, customer_id, amount, captured, freed, state, lapsed FROM billing.holds
                WHERE customer_id = ANY(%s)
                """,
                whose[:1],
            ).fetchall(),
            connection.execute(
                "SELECT request_id, kind, charge, taken, overage FROM billing.usage_events WHERE request_id = ANY(%s)",
                whose[1:],
            ).fetchall(),
        )


def check(rows: Rows, resolved: dict[UUID, object]) -> None:
    """Asserts them all; `resolved` remembers holds that are over, from one call to the next."""
    _sum_is_zero(rows)
    for account in rows.accounts:
        _chain(account, [it for it in rows.transfers if it.customer_id == account.customer_id])
    _held(rows)
    _once(rows, resolved)
    _refunds(rows)


def _sum_is_zero(rows: Rows) -> None:
    """I1: what customers have is what the house accounts lack."""
    house = sum(it.amount for it in rows.transfers if not it.credit.startswith("credits:"))
    house -= sum(it.amount for it in rows.transfers if not it.debit.startswith("credits:"))
    assert sum(account.posted for account in rows.accounts) + house == 0


def _chain(account: Any, links: Sequence[Any]) -> None:
    """I2: versions without a gap, each with the balance that its transfers make."""
    balance = 0
    for position, link in enumerate(links, start=1):
        balance += link.amount if link.credit == f"credits:{account.customer_id}" else -link.amount
        assert (link.version, link.balance_after) == (position, balance)
    assert (account.version, account.posted) == (len(links), balance)


def _held(rows: Rows) -> None:
    """I3 and I4: held is what open holds hold, and nobody has less than that."""
    held: Counter[str] = Counter()
    for hold in rows.holds:
        remaining = hold.amount - hold.captured - hold.freed
        assert remaining >= 0
        assert hold.state == "open" or remaining == 0
        held[hold.customer_id] += remaining
    for account in rows.accounts:
        assert account.held == held[account.customer_id]
        assert account.posted - account.held >= 0


def _once(rows: Rows, resolved: dict[UUID, object]) -> None:
    """I5 and I6: an event's legs make its charge, once; a hold that is over never changes again."""
    booked: dict[UUID, list[Any]] = defaultdict(list)
    for it in rows.transfers:
        if it.kind == "charge":
            booked[it.request_id].append(it)
    charged = {line.request_id: line for line in rows.usage if line.kind == "charge"}
    assert booked.keys() <= charged.keys()
    for request_id, line in charged.items():
        legs = {it.leg: it.amount for it in booked[request_id]}
        assert len(legs) == len(booked[request_id])
        assert (legs.get(0, 0), legs.get(1, 0)) == (line.taken, line.overage)
        assert line.taken + line.overage == line.charge
    for hold in rows.holds:
        if hold.state != "open":
            assert resolved.setdefault(hold.id, hold) == hold


def _refunds(rows: Rows) -> None:
    """I9: one refund of a charge, at most what it took from its customer."""
    paid = {it.id: it for it in rows.transfers if it.kind == "charge" and it.leg == 0}
    refunds = [it for it in rows.transfers if it.kind == "refund"]
    assert len({it.reverses for it in refunds}) == len(refunds)
    for it in refunds:
        assert it.amount <= paid[it.reverses].amount
        assert it.customer_id == paid[it.reverses].customer_id
