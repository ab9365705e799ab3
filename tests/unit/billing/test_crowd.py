"""Eight replicas at once on real PostgreSQL keep the invariants I1 to I11, whatever they do."""

from collections.abc import Iterator

import pytest
from hypothesis.stateful import run_state_machine_as_test

from services.billing.proof.reconcile import verify
from tests.unit.billing.bank import PostgresBank
from tests.unit.billing.crowd import THREADS, Crowd, Ledgers
from tests.unit.billing.lengths import brief


@pytest.fixture
def ledgers(billing_url: str) -> Iterator[Ledgers]:
    """Eight replicas of billing on one database."""
    banks = [PostgresBank(billing_url) for _ in range(THREADS)]
    yield Ledgers(billing_url, banks)
    for bank in banks:
        bank.close()


def test_a_crowd_keeps_the_ledger_exact(ledgers: Ledgers):
    """Nothing is lost, doubled or below zero after any round, and the streams rebuild what the tables say."""

    class OnThese(Crowd):
        pass

    OnThese.ledgers = ledgers
    try:
        run_state_machine_as_test(OnThese, settings=brief(examples=6, steps=8, shrinks=False))
    except Exception as error:
        raise ledgers.broken or error from error
    report = verify(ledgers.url)
    assert report.clean, report.checks
