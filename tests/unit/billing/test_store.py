"""The same state machine on real PostgreSQL, step by step equal to the pure model."""

from hypothesis.stateful import run_state_machine_as_test

from chassis.ids import uuid7
from services.billing import array_sql, store
from services.billing.proof.reconcile import verify
from tests.unit.billing.bank import Bank, PostgresBank
from tests.unit.billing.lengths import brief
from tests.unit.billing.machine import LedgerMachine


def test_postgres_agrees_with_the_model_after_every_step(bank: PostgresBank, billing_url: str):
    """Loading, locking and saving lose nothing that the pure books decide."""

    class OnPostgres(LedgerMachine):
        def make_other(self) -> Bank:
            return bank

    run_state_machine_as_test(OnPostgres, settings=brief(examples=10, steps=25))
    report = verify(billing_url)
    assert report.clean, report.checks


def test_what_is_applied_is_looked_for_in_its_own_days_only(bank: PostgresBank):
    """The log may have four hundred days, and each that were looked into would be opened for each batch of events."""
    today = uuid7()
    values = (array_sql.ids([today]), today, today)
    plan = [text for (text,) in bank.admin.execute(f"EXPLAIN {store._APPLIED}".encode(), values).fetchall()]
    assert sum(" on usage_events_" in line for line in plan) == 1, plan
