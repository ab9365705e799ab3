"""Eight replicas on one PostgreSQL, each in a thread of its own, doing whatever hypothesis plans for them at once.

A round is a plan for each thread; what they will do is made up before they start, so a plan is the same when it is
tried again, and only the interleaving is PostgreSQL's. After each round everything in `laws` holds, and besides

- I7: the first customer is orderly: nothing happens to their holds but charges that fit, sent often and in any order;
  their balance is what the pure books make of the same charges in another order;
- I8: what left on LEDGER and came on USAGE rebuilds the ledger (`end`);
- I10: negative, huge and wrongly priced counts move nothing and are set aside;
- I11: prices change between rounds, and a request is charged by the price that it began with.
"""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast
from uuid import UUID, uuid4

import structlog
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from prometheus_client import CollectorRegistry

from chassis.bus import Bus
from chassis.ids import uuid7
from services.billing import config, events
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.books import Books
from services.billing.figures import Figures
from services.billing.holding.holds import Hold, HoldKind
from services.billing.ledger import Usage, UsageKind
from services.billing.outbox import MAX_BATCH, Outbox
from services.billing.proof.replay import Streams, compare
from services.billing.proof.replay_store import read_live
from services.billing.settlement import Fate
from tests.unit.billing import laws
from tests.unit.billing.bank import PRICES, SPENDER, PostgresBank, event
from tests.unit.billing.machine import shuffled_books
from tollbridge.usage.v1 import usage_pb2

THREADS = 8
CREDIT = 3_000
PLENTY = 10**9
"""What the orderly customer's model begins with: it grants all holds first, the service one after the other."""
FREE = (1, 2)
"""The customers to whom anything may happen."""
ALLOWED = {"", "insufficient_credits", "invalid_request", "already_refunded", "not_settled", "not_found"}
"""What a bank may answer; whatever else it raises, a lost race too, fails the test."""

AMOUNTS = st.integers(1, 400)
INDEX = st.integers(0, 10**6)
MOVES = st.one_of(
    st.tuples(st.just("grant"), st.sampled_from([0, *FREE]), AMOUNTS, st.sampled_from([0, 0, 1])),
    st.tuples(st.just("finish"), INDEX, AMOUNTS, st.booleans()),
    st.tuples(st.just("finish"), INDEX, AMOUNTS, st.booleans()),
    st.tuples(st.just("finish"), INDEX, AMOUNTS, st.booleans()),
    st.tuples(st.just("finish"), INDEX, AMOUNTS, st.booleans()),
    st.tuples(st.just("again"), INDEX, st.integers(1, 5), st.booleans()),
    st.tuples(st.just("void"), INDEX),
    st.tuples(st.just("give_back"), INDEX, AMOUNTS, st.booleans()),
    st.tuples(st.just("expire"), INDEX),
    st.tuples(st.just("refund"), INDEX, st.sampled_from([0, 1, 50, 10**7])),
    st.tuples(st.just("adjust"), st.sampled_from(FREE), AMOUNTS, st.sampled_from([1, -1])),
    st.tuples(st.just("impossible"), INDEX, st.sampled_from([-1, -(2**63), 2**53 + 1, 2**63 - 1, 0])),
    st.tuples(st.just("stranger"), INDEX),
)
PLANS = st.lists(st.lists(MOVES, min_size=3, max_size=6), min_size=THREADS, max_size=THREADS)
Move = Callable[[PostgresBank], str]


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A hold that was asked for, and what a request on it costs per unit: the price of its beginning."""

    id: UUID
    customer: int
    amount: int
    request_id: UUID
    price_id: str


@dataclasses.dataclass(slots=True)
class Ledgers:
    """What outlives an example: the database, its replicas, and everything that came and left on the bus."""

    url: str
    banks: Sequence[PostgresBank]
    streams: Streams = dataclasses.field(default_factory=Streams)
    broken: Exception | None = None
    """What went wrong first: tried again, threads do something else, and that is all that hypothesis would tell."""

    async def publish(self, subject: str, data: bytes, **_named: object) -> None:
        """LEDGER, as the outbox sees the bus."""
        if subject == events.LEDGER_TRANSFERRED:
            self.streams.add_ledger(data, place=len(self.streams.moved) + 1)

    def came(self, came: Sequence[usage_pb2.UsageRecorded]) -> None:
        """USAGE; everything that came is applied before anybody looks."""
        self.streams.applied_until += 1
        batch = usage_pb2.UsageBatch(events=came)
        self.streams.add_usage(batch.SerializeToString(), place=self.streams.applied_until)


class Crowd(RuleBasedStateMachine):
    """`ledgers` is set by the test."""

    ledgers: Ledgers

    @initialize()
    def begin(self) -> None:
        self.customers = [f"customer-{uuid4()}" for _ in range(3)]
        self.price_id = next(iter(PRICES))
        self.holds: list[Held] = []
        self.sent: list[usage_pb2.UsageRecorded] = []
        self.impossible: list[UUID] = []
        self.ended: dict[UUID, Usage] = {}
        self.resolved: dict[UUID, object] = {}
        for customer_id in self.customers:
            assert not self.ledgers.banks[0].open(customer_id, CREDIT)

    @rule(price_id=st.sampled_from(list(PRICES)))
    def price_changes(self, price_id: str) -> None:
        self.price_id = price_id

    @rule(plans=PLANS)
    def everybody(self, plans: list[list[tuple[object, ...]]]) -> None:
        moves = [
            [move for kind, *args in plan if (move := getattr(self, f"_{kind}")(*args)) is not None] for plan in plans
        ]
        start = threading.Barrier(THREADS)

        def work(bank: PostgresBank, mine: list[Move]) -> list[str]:
            start.wait()
            return [move(bank) for move in mine]

        try:
            with ThreadPoolExecutor(THREADS) as threads:
                answers = list(threads.map(work, self.ledgers.banks, moves))
            assert {answer for each in answers for answer in each} <= ALLOWED
            self._look()
        except Exception as error:
            self.ledgers.broken = self.ledgers.broken or error
            raise

    def teardown(self) -> None:
        if not hasattr(self, "customers"):
            return
        first = self.ledgers.banks[0]
        bus = cast(Bus, self.ledgers)
        outbox = Outbox(
            pool=first.pool,
            bus=bus,
            notices=BalanceNotices(bus=bus, config=config.defaults),
            figures=Figures(registry=CollectorRegistry()),
            log=structlog.get_logger(),
            memory=first.leaving,
        )
        while first.run(outbox.send_once()) >= MAX_BATCH:
            pass
        live = read_live(self.ledgers.url)
        report = compare(live, self.ledgers.streams, live)
        assert (report.clean, report.complete, report.waiting) == (True, True, 0), report.examples

    def _look(self) -> None:
        requests = [UUID(it.request_id) for it in self.sent] + self.impossible
        rows = laws.rows_of(self.ledgers.url, self.customers, requests)
        laws.check(rows, self.resolved)
        charged = {line.request_id: line for line in rows.usage if line.kind == "charge"}
        for it in self.sent:
            if it.kind == usage_pb2.USAGE_KIND_CHARGE:
                assert charged[UUID(it.request_id)].charge == it.charge_nano_usd
        applied = {line.request_id for line in rows.usage} | {it.request_id for it in rows.transfers}
        assert not applied & set(self.impossible)
        self._orderly(rows)

    def _orderly(self, rows: laws.Rows) -> None:
        """I7."""
        name, granted = self.customers[0], {hold.id: hold for hold in rows.holds}
        books = Books(new_id=uuid7)
        books.open(name, welcome_nano_usd=PLENTY)
        for held in self.holds:
            if held.customer == 0 and held.id in granted:
                books.grant(_hold(name, held))
        usages = [usage for usage in self.ended.values() if usage.customer_id == name]
        expected = shuffled_books(books, usages, seed=len(usages)).accounts[name]
        account = next(account for account in rows.accounts if account.customer_id == name)
        assert (account.posted, account.held) == (expected.posted_nano_usd - PLENTY + CREDIT, expected.held_nano_usd)

    def _grant(self, customer: int, amount: int, least: int) -> Move:
        held = Held(uuid7(), customer, amount, uuid7(), self.price_id)
        self.holds.append(held)
        asked = (held.id, self.customers[customer], amount, least if customer else 0, held.request_id)
        return lambda bank: bank.grant(*asked)

    def _finish(self, index: int, units: int, closes: bool) -> Move | None:
        held = self._some_hold(index)
        if held is None or (held.customer == 0 and (held.id in self.ended or held.id not in self._granted())):
            return None
        rate = PRICES[held.price_id].rates.per_request
        if held.customer == 0:
            units = min(units, held.amount // rate)
        first = held.id not in self.ended
        usage = Usage(
            request_id=held.request_id if first else uuid7(),
            kind=UsageKind.CHARGE,
            customer_id=self.customers[held.customer],
            hold_id=held.id,
            closes_hold=closes,
            charge_nano_usd=units * rate,
        )
        self.ended.setdefault(held.id, usage)
        return self._send([self._priced(usage, held.price_id, units)])

    def _again(self, index: int, count: int, backwards: bool) -> Move | None:
        first = index % (len(self.sent) or 1)
        batch = self.sent[first : first + count]
        return self._send(batch[::-1] if backwards else batch, new=False) if batch else None

    def _void(self, index: int) -> Move | None:
        held = self._some_hold(index, free=True)
        if held is None or held.id in self.ended:
            return None
        usage = Usage(
            request_id=held.request_id,
            kind=UsageKind.VOID,
            customer_id=self.customers[held.customer],
            hold_id=held.id,
            closes_hold=True,
            charge_nano_usd=0,
        )
        return self._send([event(usage)])

    def _give_back(self, index: int, amount: int, closes: bool) -> Move | None:
        held = self._some_hold(index, free=True)
        return (lambda bank: bank.give_back(held.id, amount, closes)) if held else None

    def _expire(self, index: int) -> Move | None:
        held = self._some_hold(index, free=True)
        return (lambda bank: bank.expire(held.id)) if held else None

    def _refund(self, index: int, part: int) -> Move | None:
        charges = [it for it in self.sent if it.customer_id != self.customers[0] and it.charge_nano_usd]
        if not charges:
            return None
        request_id = UUID(charges[index % len(charges)].request_id)
        return lambda bank: bank.refund(request_id, part)

    def _adjust(self, customer: int, amount: int, sign: int) -> Move:
        """Asked twice, done once."""
        asked = (self.customers[customer], sign * amount, str(uuid4()))
        return lambda bank: max(bank.adjust(*asked), bank.adjust(*asked))

    def _impossible(self, index: int, units: int) -> Move | None:
        """Counts that can't be; 0 stands for a count that can, charged by another price than it names."""
        held = self._some_hold(index, free=True)
        if held is None:
            return None
        usage = Usage(
            request_id=uuid7(),
            kind=UsageKind.CHARGE,
            customer_id=self.customers[held.customer],
            hold_id=held.id,
            closes_hold=True,
            charge_nano_usd=units or 7 * PRICES[held.price_id].rates.per_request + 1,
        )
        self.impossible.append(usage.request_id)
        return self._send([self._priced(usage, held.price_id, units or 7)], new=False)

    def _stranger(self, index: int) -> Move | None:
        """A charge on another customer's hold."""
        held = self._some_hold(index)
        if held is None or held.id not in self._granted():
            return None
        usage = Usage(
            request_id=uuid7(),
            kind=UsageKind.CHARGE,
            customer_id=self.customers[1 + held.customer % 2],
            hold_id=held.id,
            closes_hold=True,
            charge_nano_usd=1,
        )
        self.impossible.append(usage.request_id)
        return self._send([event(usage)], new=False)

    def _send(self, batch: list[usage_pb2.UsageRecorded], *, new: bool = True) -> Move:
        if new:
            self.sent += batch
        self.ledgers.came(batch)

        def send(bank: PostgresBank) -> str:
            fates = bank.run(bank.settlement.apply(batch))
            assert Fate.WAITING not in fates
            return ""

        return send

    def _priced(self, usage: Usage, price_id: str, units: int) -> usage_pb2.UsageRecorded:
        return event(usage, price_version=price_id, units=usage_pb2.Units(requests=units))

    def _some_hold(self, index: int, *, free: bool = False) -> Held | None:
        found = [held for held in self.holds if held.customer or not free]
        return found[index % len(found)] if found else None

    def _granted(self) -> set[UUID]:
        """Holds that there were before this round; what others ask for meanwhile may be refused."""
        rows = self.ledgers.banks[0].admin.execute(
            "SELECT id FROM billing.holds WHERE customer_id = ANY(%s)", (self.customers,)
        )
        return {row[0] for row in rows.fetchall()}


def _hold(customer_id: str, held: Held) -> Hold:
    return Hold(
        id=held.id,
        customer_id=customer_id,
        kind=HoldKind.LEASE,
        spender=SPENDER,
        amount_nano_usd=held.amount,
        stated_nano_usd=held.amount,
        request_id=held.request_id,
        granted_at_us=0,
        expires_at_us=1,
    )
