"""Billing on real NATS and PostgreSQL: usage in, in any order and number; transfers out, complete and in order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis import bus as bus_module
from chassis.bus import Bus, ConsumerSpec, Delivery
from chassis.ids import uuid7
from services.billing import config, events, outbox, written
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.consumer import UsageConsumer
from services.billing.figures import Figures
from services.billing.ledger import Usage, UsageKind
from services.billing.outbox import Outbox
from services.billing.proof.reconcile import verify
from services.billing.written import Memory
from tests.conftest import RunningServer
from tests.unit.billing.bank import PostgresBank, Seen, event
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

WITHIN_S = 30.0
LOG = structlog.get_logger()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "FETCH_S", 0.5)
    monkeypatch.setattr(bus_module, "TROUBLE_PAUSE_S", 0.05)
    monkeypatch.setattr(bus_module, "RECONNECT_PAUSE_S", 0.1)
    monkeypatch.setattr(outbox, "TROUBLE_PAUSE_S", 0.1)
    monkeypatch.setattr(outbox, "MAX_BATCH", 7)


@pytest.fixture
def own_bank(billing_url: str):
    """A replica of this test's own loop."""
    bank = PostgresBank(billing_url)
    yield bank
    bank.close()


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def _bus(nats_url: str) -> Bus:
    """A bus that is there, with both streams."""
    bus = await Bus.connect(nats_url, name="test", log=LOG)

    async def connected() -> bool:
        return bus.connected

    await _until(connected)
    await events.ensure_streams(bus)
    return bus


class Ears:
    """Everything that arrived on LEDGER, once each, in its order."""

    def __init__(self, name: str) -> None:
        self.transfers: list[billing_pb2.LedgerTransferred] = []
        self.spec = ConsumerSpec(
            stream="LEDGER", durable=name, subject=events.LEDGER_TRANSFERRED, max_ack_pending=100, ack_wait_s=5
        )

    async def handle(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            seen = {it.transfer.id for it in self.transfers}
            batch = billing_pb2.LedgerTransferredBatch.FromString(delivery.data)
            self.transfers += [it for it in batch.events if it.transfer.id not in seen]
            await delivery.ack()


def _sender(bank: PostgresBank, bus: Bus, **changes: Memory) -> Outbox:
    return Outbox(
        pool=bank.pool,
        bus=bus,
        notices=BalanceNotices(bus=bus, config=config.defaults),
        figures=Figures(registry=CollectorRegistry()),
        log=LOG,
        **changes,
    )


async def _none_waits(bank: PostgresBank) -> bool:
    return bank.admin.execute("SELECT count(*) FROM billing.outbox").fetchone() == (0,)


def _rows(bank: PostgresBank) -> list[tuple[UUID, str, int]]:
    return bank.admin.execute(
        "SELECT id, customer_id, version FROM billing.transfers WHERE customer_id IS NOT NULL"
    ).fetchall()


def test_every_transfer_arrives_in_the_order_of_its_version(
    own_bank: PostgresBank, nats_server: RunningServer, nats_url: str
):
    """Also while NATS is away and after it comes back: none is missing, none comes before its predecessor."""
    bank, ears = own_bank, Ears("ears")
    customers = [f"customer-{uuid4()}" for _ in range(3)]
    for customer in customers:
        assert not bank.open(customer, 10_000)

    async def charge(count: int) -> None:
        for first in range(0, count, 4):  # one statement writes four transfers, and two of them are one customer's
            usages = [
                Usage(
                    request_id=uuid7(),
                    kind=UsageKind.CHARGE,
                    customer_id=customers[number % 3],
                    hold_id=None,
                    closes_hold=False,
                    charge_nano_usd=1 + number,
                )
                for number in range(first, first + 4)
            ]
            await bank.settlement.apply([event(usage) for usage in usages])

    async def work() -> None:
        bus = await _bus(nats_url)
        hearing = bus.consume(ears.spec, ears.handle)
        tasks = [asyncio.create_task(each) for each in (_sender(bank, bus).run(), hearing)]
        await charge(40)
        nats_server.kill()
        await charge(40)
        nats_server.start()
        await charge(40)
        wanted = len(_rows(bank))

        async def all_there() -> bool:
            return len(ears.transfers) >= wanted and await _none_waits(bank)

        await _until(all_there)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bus.close()

    bank.run(work())
    place = {UUID(it.transfer.id): number for number, it in enumerate(ears.transfers)}
    for customer in customers:
        chain = sorted((version, id_) for id_, owner, version in _rows(bank) if owner == customer)
        arrived = [place[id_] for _, id_ in chain]
        assert arrived == sorted(arrived)
    assert len(place) == len(_rows(bank))


def test_what_fills_the_memory_leaves_before_the_pause_is_over(
    own_bank: PostgresBank, nats_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Few transfers wait for the next look; many don't, or they would have to be read again from their rows."""
    monkeypatch.setattr(outbox, "IDLE_PAUSE_S", 3600.0)
    monkeypatch.setattr(written, "MOST", 8)
    bank, customer = own_bank, f"customer-{uuid4()}"
    assert not bank.open(customer, 10_000)

    async def work() -> None:
        bus = await _bus(nats_url)
        task = asyncio.create_task(_sender(bank, bus, memory=bank.leaving).run())
        await _until(lambda: _none_waits(bank))
        charges = [
            Usage(
                request_id=uuid7(),
                kind=UsageKind.CHARGE,
                customer_id=customer,
                hold_id=None,
                closes_hold=False,
                charge_nano_usd=1,
            )
            for _ in range(4)
        ]
        await bank.settlement.apply([event(each) for each in charges])
        await _until(lambda: _none_waits(bank))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()

    bank.run(work())


def _usages(customer: str, holds: list[tuple[UUID, UUID]]) -> list[usage_pb2.UsageRecorded]:
    """Charges, one void, and two poison events for holds of their own."""
    made = []
    for number, (hold_id, request_id) in enumerate(holds):
        is_void = number % 5 == 4
        usage = Usage(
            request_id=request_id,
            kind=UsageKind.VOID if is_void else UsageKind.CHARGE,
            customer_id=customer,
            hold_id=hold_id,
            closes_hold=True,
            charge_nano_usd=0 if is_void else 10 + number,
        )
        made.append(event(usage, **({"charge_nano_usd": 999} if number in {2, 7} else {})))
    return made


def test_poison_duplicates_and_any_order_make_the_same_balances(
    own_bank: PostgresBank, nats_url: str, billing_url: str
):
    """I7: what matters is which events came, not when, how often or together with which."""
    bank, seen = own_bank, list[Seen]()
    for seed in range(4):
        chance, customer = random.Random(seed), f"customer-{uuid4()}"
        assert not bank.open(customer, 10_000)
        holds = [(uuid7(), uuid7()) for _ in range(20)]
        for hold_id, request_id in holds:
            assert not bank.grant(hold_id, customer, 50, 0, request_id)
        usages = _usages(customer, holds)
        sent = usages * (1 + seed)
        chance.shuffle(sent)
        bank.run(_bring(bank, nats_url, sent, size=chance.randint(1, 9)))
        seen.append(bank.account(customer))
        kept = [bank.hold(hold_id)[3] for hold_id, _ in holds]
        assert [number for number, state in enumerate(kept) if state == "open"] == [2, 7]
    assert len(set(seen)) == 1
    assert seen[0][2] == 2 * 50
    report = verify(billing_url)
    assert report.clean, report.checks
    assert report.dead_letters == 4 * 2 + 4


async def _bring(bank: PostgresBank, nats_url: str, sent: list[usage_pb2.UsageRecorded], *, size: int) -> None:
    """Publishes in batches of this size, with one message that is no batch, and waits until all are settled."""
    bus = await _bus(nats_url)
    consumer = UsageConsumer(settlement=bank.settlement, figures=Figures(registry=CollectorRegistry()), log=LOG)
    task = asyncio.create_task(bus.consume(events.APPLY_USAGE, consumer.handle, batch=3))
    batches = [usage_pb2.UsageBatch(events=sent[at : at + size]) for at in range(0, len(sent), size)]
    garbage = b"\xff garbage " + uuid4().bytes
    for data in [garbage, *(batch.SerializeToString() for batch in batches)]:
        await bus.publish(
            events.USAGE_RECORDED,
            data,
            event_id=str(uuid4()),
            event_type=events.USAGE_RECORDED,
            source="test",
        )

    async def settled() -> bool:
        info = await bus._client.jetstream().consumer_info("USAGE", events.APPLY_USAGE.durable)
        return not info.num_pending and not info.num_ack_pending and bool(info.delivered.consumer_seq)

    await _until(settled)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()
