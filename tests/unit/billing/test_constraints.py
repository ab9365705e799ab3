"""What the database refuses by itself, were the code ever wrong."""

import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from chassis.ids import unix_ms, uuid7
from tests.unit.billing.bank import PostgresBank


@pytest.fixture(scope="module")
def customer(bank: PostgresBank) -> str:
    """Somebody with 100 nano-dollars, 60 of them held."""
    customer_id = f"customer-{uuid4()}"
    assert not bank.open(customer_id, 100)
    assert not bank.grant(uuid7(), customer_id, 60, 0, uuid7())
    return customer_id


def _transfer(connection: psycopg.Connection, **changes: object) -> None:
    row: dict[str, object] = {
        "id": uuid7(),
        "debit": "overage_loss",
        "credit": "revenue",
        "amount": 1,
        "kind": "charge",
        "event_id": f"charge:{uuid4()}",
        "leg": 1,
        **changes,
    }
    names = ", ".join(row)
    marks = ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO billing.transfers ({names}) VALUES ({marks})".encode(), list(row.values()))


def test_overspending_is_refused_by_the_check_itself(as_billing: psycopg.Connection, customer: str):
    """posted - held >= 0 is a constraint of the table."""
    with pytest.raises(errors.CheckViolation, match="no_overspend"):
        as_billing.execute("UPDATE billing.ledger_accounts SET held = held + 41 WHERE customer_id = %s", (customer,))
    with pytest.raises(errors.CheckViolation):
        as_billing.execute(
            "UPDATE billing.ledger_accounts SET posted = posted - 41, used = used + 41 WHERE customer_id = %s",
            (customer,),
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing.transfers SET amount = 1",
        "DELETE FROM billing.transfers",
        "TRUNCATE billing.transfers CASCADE",
        "DELETE FROM billing.usage_events",
        "UPDATE billing.usage_events SET charge = 0",
        "DELETE FROM billing.ledger_accounts",
        "DELETE FROM billing.holds",
        "UPDATE billing.price_versions SET content = ''",
        "ALTER TABLE billing.transfers DISABLE TRIGGER ALL",
        "DROP TRIGGER transfers_are_append_only ON billing.transfers",
    ],
)
def test_the_service_may_not_rewrite_the_past(as_billing: psycopg.Connection, statement: str):
    """What is booked stays booked: the role lacks the right."""
    with pytest.raises(errors.InsufficientPrivilege):
        as_billing.execute(statement.encode())


@pytest.mark.parametrize("statement", ["UPDATE billing.transfers SET amount = 1", "DELETE FROM billing.transfers"])
def test_even_a_superuser_meets_the_trigger(billing_url: str, statement: str):
    """Somebody who has the right is stopped before a slip of the hand."""
    with psycopg.connect(billing_url) as connection, pytest.raises(errors.RestrictViolation, match="append-only"):
        connection.execute(statement.encode())


def test_a_leg_of_an_event_is_booked_once(as_billing: psycopg.Connection):
    """unique (event_id, leg)."""
    _transfer(as_billing, event_id="charge:twice")
    with pytest.raises(errors.UniqueViolation):
        _transfer(as_billing, event_id="charge:twice")


def test_a_transfer_is_reversed_once_per_leg(as_billing: psycopg.Connection):
    """unique (reverses, leg)."""
    first = uuid7()
    _transfer(as_billing, id=first)
    _transfer(as_billing, kind="refund", reverses=first)
    with pytest.raises(errors.UniqueViolation):
        _transfer(as_billing, kind="refund", reverses=first)


@pytest.mark.parametrize("amount", [0, -1, 2**53 + 1])
def test_an_amount_out_of_range_is_refused(as_billing: psycopg.Connection, amount: int):
    """Amounts are positive and bounded."""
    with pytest.raises(errors.CheckViolation):
        _transfer(as_billing, amount=amount)


@pytest.mark.parametrize(
    ("debit", "credit"), [("revenue", "revenue"), ("petty_cash", "revenue"), ("credits:x", "revenue")]
)
def test_an_unknown_account_is_refused(as_billing: psycopg.Connection, debit: str, credit: str):
    """A transfer names accounts that exist, two different ones."""
    with pytest.raises(errors.CheckViolation):
        _transfer(as_billing, debit=debit, credit=credit)


def test_a_hold_never_gives_out_more_than_it_is(as_billing: psycopg.Connection, customer: str):
    """captured + freed <= amount, and a resolved hold holds nothing."""
    for change in ("captured = amount + 1", "captured = 40, freed = 30", "state = 'settled'"):
        with pytest.raises(errors.CheckViolation):
            as_billing.execute(f"UPDATE billing.holds SET {change} WHERE customer_id = %s".encode(), (customer,))


def test_usage_lies_in_the_partition_of_its_day(as_billing: psycopg.Connection, billing_url: str):
    """Today and seven more days have a partition; what is older goes to the default one."""
    with psycopg.connect(billing_url) as admin:
        names = [
            row[0]
            for row in admin.execute(
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing.usage_events'::regclass"
            )
        ]
    assert len(names) == 9
    now, old = uuid7(), UUID("01000000-0000-7000-8000-000000000000")
    for request_id in (now, old):
        as_billing.execute(
            """INSERT INTO billing.usage_events (request_id, kind, customer_id, key_id, model, operation, prompt_tokens,
                completion_tokens, charge, taken, overage, provider_cost, recorded)
            VALUES (%s, 'void', 'c', '', '', '', 0, 0, 0, 0, 0, 0, '')""",
            (request_id,),
        )
    where = dict(
        as_billing.execute(
            "SELECT request_id, tableoid::regclass::text FROM billing.usage_events WHERE customer_id = 'c'"
        ).fetchall()
    )
    day = as_billing.execute(
        "SELECT to_char(to_timestamp(%s / 1000.0) AT TIME ZONE 'UTC', 'YYYYMMDD')", (unix_ms(now),)
    ).fetchone()
    assert day is not None
    assert where == {now: f"billing.usage_events_{day[0]}", old: "billing.usage_events_rest"}


def test_partitions_are_made_for_a_role_that_may_make_no_tables(as_billing: psycopg.Connection):
    """The maintenance works with the service's rights, is safe to repeat, and bounded."""
    made = as_billing.execute("SELECT billing.make_partitions(9)").fetchone()
    again = as_billing.execute("SELECT billing.make_partitions(9)").fetchone()
    assert (made, again) == ((2,), (0,))
    with pytest.raises(errors.RaiseException):
        as_billing.execute("SELECT billing.make_partitions(31)")


@pytest.mark.parametrize("reference", [{"reverses": uuid7()}, {"customer_id": "nobody", "version": 1}])
def test_a_transfer_names_only_what_exists(as_billing: psycopg.Connection, reference: dict[str, object]):
    """The transfer that it reverses, and a customer's account."""
    more = {"debit": "credits:nobody", "balance_after": 0} if "customer_id" in reference else {}
    with pytest.raises(errors.ForeignKeyViolation):
        _transfer(as_billing, **reference, **more)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM billing.ledger_accounts WHERE customer_id = %(id)s",
        "UPDATE billing.ledger_accounts SET customer_id = 'another' WHERE customer_id = %(id)s",
        "TRUNCATE billing.ledger_accounts CASCADE",
    ],
)
def test_an_account_with_transfers_stays(billing_url: str, customer: str, statement: str):
    """Also before somebody who has every right."""
    refused = (errors.ForeignKeyViolation, errors.RestrictViolation)
    with psycopg.connect(billing_url) as admin:
        admin.execute("UPDATE billing.ledger_accounts SET version = 1 WHERE customer_id = %s", (customer,))
        with pytest.raises(refused):
            admin.execute(statement.encode(), {"id": customer})


def test_every_transfer_leaves_and_is_sealed(billing_url: str, as_billing: psycopg.Connection):
    """A trigger puts it into both queues, whoever wrote it."""
    made = uuid7()
    _transfer(as_billing, id=made)
    with psycopg.connect(billing_url) as admin:
        for queue in ("outbox", "unsealed"):
            found = admin.execute(f"SELECT count(*) FROM billing.{queue} WHERE %s = ANY(transfer_ids)", (made,))
            assert found.fetchone() == (1,)


def test_the_migration_of_a_ledger_in_use_waits_where_settlement_begins(billing_url: str, customer: str):
    """At the accounts: what has those locked goes on to its transfers and ends, instead of both waiting for ever."""
    lock = import_module("services.billing.migrations.versions.0022_queues_by_statement")._STATEMENTS[0]
    with (
        psycopg.connect(billing_url) as settling,
        psycopg.connect(billing_url) as migrating,
        ThreadPoolExecutor(1) as pool,
    ):
        settling.execute("SELECT FROM billing.ledger_accounts WHERE customer_id = %s FOR NO KEY UPDATE", (customer,))
        locked = pool.submit(migrating.execute, lock)
        try:
            deadline = time.monotonic() + 20
            while _blockers(settling, migrating.info.backend_pid) != [settling.info.backend_pid]:
                assert time.monotonic() < deadline, "the migration did not come to wait"
            settling.execute("SET LOCAL lock_timeout = '200ms'")
            _transfer(settling)
        finally:
            settling.rollback()
        locked.result(20)
        migrating.rollback()


def _blockers(connection: psycopg.Connection, pid: int) -> list[int]:
    row = connection.execute("SELECT pg_blocking_pids(%s)", (pid,)).fetchone()
    return list(row[0]) if row else []
