"""The same state machine on real PostgreSQL, step by step equal to the pure model."""

from hypothesis.stateful import run_state_machine_as_test

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
