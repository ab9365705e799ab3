"""The same state machine on real PostgreSQL, step by step equal to the pure model."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from services.billing.reconcile import verify
from tests.unit.billing.bank import Bank, PostgresBank
from tests.unit.billing.machine import LedgerMachine


def test_postgres_agrees_with_the_model_after_every_step(bank: PostgresBank, billing_url: str):
    """Loading, locking and saving lose nothing that the pure books decide."""

    class OnPostgres(LedgerMachine):
        def make_other(self) -> Bank:
            return bank

    run_state_machine_as_test(
        OnPostgres,
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    report = verify(billing_url)
    assert report.clean, report.checks
