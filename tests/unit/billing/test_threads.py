"""Eight threads, each a replica of its own, on the same three customers."""

import random
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

from chassis.ids import uuid7
from services.billing.holding.caps import Per, cap_of
from services.billing.ledger import Usage, UsageKind
from services.billing.proof.reconcile import verify
from tests.unit.billing.bank import PostgresBank

THREADS = 8
STEPS = 60
CREDIT = 5_000
CAP = 2_000


def test_eight_replicas_keep_the_ledger_exact(billing_url: str):
    """Whatever they do at once: nothing is lost, nothing is made, nobody goes below zero, no call fails for a race."""
    customers = [f"customer-{uuid4()}" for _ in range(3)]
    with ThreadPoolExecutor(THREADS) as threads:
        charged = sum(threads.map(lambda seed: _work(billing_url, customers, seed), range(THREADS)))
    report = verify(billing_url)
    assert report.clean, report.checks
    assert report.charged_nano_usd == charged
    assert report.house_nano_usd["revenue"] == charged
    assert report.balance_nano_usd == 3 * CREDIT - charged - report.house_nano_usd.get("overage_loss", 0)


def _work(url: str, customers: list[str], seed: int) -> int:
    """One replica's life; returns what it charged, duplicates not counted."""
    chance, bank, charged = random.Random(seed), PostgresBank(url), 0
    for customer in customers:
        assert not bank.open(customer, CREDIT)
    mine: list[tuple[UUID, str, UUID]] = []
    sent: list[Usage] = []
    for _ in range(STEPS):
        customer = chance.choice(customers)
        hold_id, request_id = uuid7(), uuid7()
        caps = [
            cap_of(owner, Per.DAY, CAP, request_id=request_id)
            for owner in (f"key:{customer}", f"customer:{customer}")
            if chance.random() < 0.3
        ]
        refused = bank.grant(hold_id, customer, chance.randint(1, 400), chance.choice([0, 1]), request_id, caps=caps)
        assert refused in {"", "insufficient_credits", "spend_cap_reached"}
        if not refused:
            mine.append((hold_id, customer, request_id))
        if len(mine) < 4:
            continue
        batch = [_usage(chance, *mine.pop(0)) for _ in range(3)]
        charged += sum(usage.charge_nano_usd for usage in batch)
        sent += batch
        again = batch + chance.sample(sent, min(2, len(sent)))
        chance.shuffle(again)
        assert not bank.settle(again)
        assert not bank.give_back(mine[0][0], chance.randint(0, 50), chance.random() < 0.3)
    bank.close()
    return charged


def _usage(chance: random.Random, hold_id: UUID, customer: str, request_id: UUID) -> Usage:
    return Usage(
        request_id=request_id,
        kind=UsageKind.CHARGE,
        customer_id=customer,
        hold_id=hold_id,
        closes_hold=chance.random() < 0.8,
        charge_nano_usd=chance.randint(1, 500),
    )
