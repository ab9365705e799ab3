"""Eight spenders, each with its own replica of billing, draw three customers' requests from shared leases."""

import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest

from chassis.errors import Code, TollbridgeError
from chassis.ids import now_floor, uuid7
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import Page, Stated
from services.billing.ledger import Usage, UsageKind
from services.billing.proof.reconcile import verify
from services.edge.spending.wallet import Lease
from tests.unit.billing.bank import PostgresBank, event

THREADS = 8
STEPS = 60
CREDIT = 6_000


@pytest.mark.parametrize("expires", [False, True])
def test_spenders_never_spend_more_than_there_is(billing_url: str, expires: bool):
    """Recalls, statements that are late or come twice, expiry: the books are exact, and living draws are covered."""
    customers = [f"customer-{uuid4()}" for _ in range(3)]
    before = verify(billing_url)
    with ThreadPoolExecutor(THREADS) as threads:
        lives = [threads.submit(Spender(billing_url, customers, seed, expires=expires).live) for seed in range(THREADS)]
        charged = sum(life.result() for life in lives)
    report = verify(billing_url)
    assert report.clean, report.checks
    assert report.charged_nano_usd - before.charged_nano_usd == charged
    with psycopg.connect(billing_url) as admin:
        rows = admin.execute(
            "SELECT posted, held, used FROM billing.ledger_accounts WHERE customer_id = ANY(%s)", (customers,)
        ).fetchall()
        lost = admin.execute(
            "SELECT coalesce(sum(o.amount), 0) FROM billing.transfers o JOIN billing.transfers t"
            " ON t.event_id = o.event_id AND t.leg = 0 WHERE o.debit = 'overage_loss' AND t.customer_id = ANY(%s)",
            (customers,),
        ).fetchone()
    assert all(posted >= held >= 0 for posted, held, _ in rows)
    assert sum(used for _, _, used in rows) <= charged
    if not expires:
        assert lost == (0,)
        assert sum(used for _, _, used in rows) == charged
        assert [held for _, held, _ in rows] == [0, 0, 0]


class Spender:
    """One incarnation that does what edge does, in a random order."""

    def __init__(self, url: str, customers: list[str], seed: int, *, expires: bool) -> None:
        self.chance = random.Random(seed)
        self.bank = PostgresBank(url)
        self.name = str(uuid7())
        self.customers = customers
        self.expires = expires
        self.leases: list[Lease] = []
        self.draws: list[tuple[Lease, int]] = []
        self.sent: list[tuple[Lease, Usage]] = []
        self.pages: list[Page] = []
        self.charged = 0

    def live(self) -> int:
        """Returns what it charged."""
        for customer in self.customers:
            assert not self.bank.open(customer, CREDIT)
        steps = [self.ask, self.draw, self.draw, self.draw, self.end, self.end, self.confirm, self.state, self.recalled]
        if self.expires:
            steps.append(self.expire)
        for _ in range(STEPS):
            self.chance.choice(steps)()
        while self.draws:
            self.end()
        self.confirm()
        self.leases.clear()
        self.state()
        self.bank.close()
        return self.charged

    def ask(self) -> None:
        spare = self.chance.random() < 0.3
        amount = self.chance.randint(1, 300)
        ask = Ask(
            hold_id=uuid7(),
            customer_id=self.chance.choice(self.customers),
            kind=HoldKind.LEASE,
            spender=self.name,
            amount_nano_usd=amount,
            request_id=None if spare else uuid7(),
            wish_nano_usd=self.chance.randint(amount, 4 * amount),
            spare=spare,
        )
        try:
            granted = self.bank.run(self.bank.grants.grant(ask, wait_s=0))
        except TollbridgeError as error:
            assert error.code in {Code.INSUFFICIENT_CREDITS, Code.BALANCE_RESERVED}  # noqa: PT017  one of two
            return
        amount = granted.amount_nano_usd
        self.leases.append(
            Lease(hold_id=str(ask.hold_id), customer_id=ask.customer_id, amount_nano_usd=amount, shared=True)
        )

    def draw(self) -> None:
        free = [lease for lease in self.leases if lease.free_nano_usd]
        if free:
            lease = self.chance.choice(free)
            amount = self.chance.randint(1, lease.free_nano_usd)
            lease.draw(amount)
            self.draws.append((lease, amount))

    def end(self) -> None:
        if not self.draws:
            return
        lease, amount = self.draws.pop(self.chance.randrange(len(self.draws)))
        charge = self.chance.randint(0, amount)
        lease.settle(amount, spent_nano_usd=charge)
        usage = Usage(
            request_id=uuid7(),
            kind=UsageKind.CHARGE if charge else UsageKind.VOID,
            customer_id=lease.customer_id,
            hold_id=UUID(lease.hold_id),
            closes_hold=False,
            charge_nano_usd=charge,
        )
        self.charged += charge
        self.sent.append((lease, usage))

    def confirm(self) -> None:
        """The bus brings what was sent, twice and in any order, and billing says so."""
        batch = [event(usage) for _, usage in self.sent] * 2
        self.chance.shuffle(batch)
        if batch:
            self.bank.run(self.bank.settlement.apply(batch))
        for lease, usage in self.sent:
            lease.confirm(usage.charge_nano_usd)
        self.sent.clear()

    def state(self) -> None:
        """A full statement; sometimes one from before comes once more."""
        now = now_floor()
        leases = [Stated(**{**dataclasses.asdict(each.state), "hold_id": UUID(each.hold_id)}) for each in self.leases]
        page = Page(spender=self.name, as_of=now, leases=leases)
        self.pages.append(page)
        for said in (page, self.chance.choice(self.pages)):
            self.bank.run(self.bank.leases.state(said))

    def recalled(self) -> None:
        """Everything that is free goes back, and what is over ends."""
        for lease in list(self.leases):
            lease.give_back()
            if lease.is_over:
                self.leases.remove(lease)
        self.state()

    def expire(self) -> None:
        """One of its leases runs out of time, though it goes on with it."""
        if self.leases:
            self.bank.expire(UUID(self.chance.choice(self.leases).hold_id))
