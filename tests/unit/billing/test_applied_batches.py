"""A batch of usage events is known as applied by its id once all of it is, and by nothing less."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis.bus import Delivery
from chassis.errors import Code, TollbridgeError
from chassis.ids import unix_ms, uuid7, uuid7_at
from services.billing import batch_store, consumer, partitions
from services.billing.confirm import Confirmations
from services.billing.consumer import UsageConsumer
from services.billing.figures import Figures
from services.billing.ledger import Usage, UsageKind
from tests.unit.billing.bank import PostgresBank, event
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2

LOG = structlog.get_logger()
DAY_MS = 86_400_000


class Bench:
    """A consumer of messages, and what is known of their batches."""

    def __init__(self, bank: PostgresBank) -> None:
        self.bank = bank
        self.customer = f"customer-{uuid4()}"
        assert not bank.open(self.customer, 1_000)
        figures = Figures(registry=CollectorRegistry())
        self.consumer = UsageConsumer(settlement=bank.settlement, figures=figures, log=LOG)
        self.confirmations = Confirmations(pool=bank.pool)

    def usage(self, *, amount: int = 1) -> usage_pb2.UsageRecorded:
        usage = Usage(
            request_id=uuid7(),
            kind=UsageKind.CHARGE,
            customer_id=self.customer,
            hold_id=None,
            closes_hold=False,
            charge_nano_usd=amount,
        )
        return event(usage)

    def message(self, events: Sequence[usage_pb2.UsageRecorded]) -> tuple[str, Delivery]:
        batch_id = str(uuid7())
        batch = usage_pb2.UsageBatch(events=events, id=batch_id)
        delivery = Delivery(
            data=batch.SerializeToString(), headers={}, subject="", deliveries=1, message=cast("Any", Message())
        )
        return batch_id, delivery

    def bring(self, *deliveries: Delivery) -> None:
        self.bank.run(self.consumer.handle(deliveries))

    def known(self, *batch_ids: str) -> list[bool]:
        return self.bank.run(self.confirmations.batches([UUID(batch_id) for batch_id in batch_ids]))

    def used(self) -> int:
        return self.bank.account(self.customer)[1]


class Message:
    """Takes any answer."""

    async def ack(self) -> None:
        """Done."""

    async def nak(self, delay: float) -> None:
        """Again."""


@pytest.fixture
def bench(bank: PostgresBank) -> Bench:
    return Bench(bank)


def test_a_batch_is_known_once_all_of_it_is_applied_and_however_often_it_comes(bench: Bench):
    """Its spender then need not ask about each event."""
    batch_id, delivery = bench.message([bench.usage() for _ in range(5)])
    assert bench.known(batch_id) == [False]
    bench.bring(delivery)
    bench.bring(delivery)
    assert bench.known(batch_id, str(uuid7())) == [True, False]
    assert bench.used() == 5


def test_a_batch_with_a_dead_letter_or_an_event_that_waits_is_not_known(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """The events of such a batch differ, so its spender must ask about each; its neighbours are known all the same."""

    async def away(_version_id: str) -> router_pb2.PriceVersion:
        raise TollbridgeError(Code.UNAVAILABLE, "router is away")

    monkeypatch.setattr(bench.bank.settlement._prices, "_ask_router", away)
    wrong, waits = bench.usage(), bench.usage()
    wrong.charge_nano_usd += 1
    waits.price_version = "0" * 64
    batches = [bench.message([bench.usage(), other]) for other in (wrong, waits, bench.usage())]
    bench.bring(*(delivery for _, delivery in batches))
    assert bench.known(*(batch_id for batch_id, _ in batches)) == [False, False, True]
    assert bench.used() == 4


def test_a_batch_that_the_database_refuses_in_part_is_not_known(bench: Bench):
    """What is then applied event by event is asked about event by event."""
    batch_id, delivery = bench.message(collision := [bench.usage(), bench.usage()])
    bench.bank.admin.execute(
        "INSERT INTO billing.transfers (id, debit, credit, amount, kind, event_id, leg)"
        " VALUES (%s, 'overage_loss', 'revenue', 1, 'adjustment', %s, 0)",
        (uuid7(), f"charge:{collision[1].request_id}"),
    )
    bench.bring(delivery)
    assert bench.known(batch_id) == [False]
    assert bench.used() == 1


def test_messages_share_a_transaction_whole_and_one_that_is_too_large_is_cut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    """A batch over two transactions could be half applied, so it has no name; every event is applied once."""
    monkeypatch.setattr(consumer, "MAX_EVENTS", 4)
    batches = [bench.message([bench.usage() for _ in range(count)]) for count in (3, 2, 9, 1)]
    bench.bring(*(delivery for _, delivery in batches))
    assert bench.known(*(batch_id for batch_id, _ in batches)) == [True, True, False, True]
    assert bench.used() == 15


def test_ids_of_batches_are_forgotten_after_a_day(bench: Bench):
    """Nobody asks about them by then, and whoever did would ask about each event."""
    old = uuid7_at(unix_ms(uuid7()) - DAY_MS - 1000)
    young = uuid7_at(time.time_ns() // 1_000_000 - DAY_MS // 2)

    async def add() -> None:
        async with bench.bank.pool.connection() as connection:
            await batch_store.add(connection, [old, young])

    bench.bank.run(add())
    bench.bank.run(partitions.forget_batches(pool=bench.bank.pool, log=LOG))
    assert bench.known(str(old), str(young)) == [False, True]


def test_replicas_that_get_the_same_batches_at_once_apply_each_event_once(bench: Bench):
    """As after a message that one of them was slow to answer; in whatever order each has them."""
    batches = [bench.message([bench.usage() for _ in range(20)]) for _ in range(8)]
    deliveries = [delivery for _, delivery in batches]

    def other() -> None:
        bank = PostgresBank(bench.bank.url)
        try:
            consuming = UsageConsumer(
                settlement=bank.settlement, figures=Figures(registry=CollectorRegistry()), log=LOG
            )
            for delivery in reversed(deliveries):
                bank.run(consuming.handle([delivery]))
        finally:
            bank.close()

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(other)
        for start in range(0, len(deliveries), 2):
            bench.bring(*deliveries[start : start + 2])
        late.result(60)
    assert bench.known(*(batch_id for batch_id, _ in batches)) == [True] * len(batches)
    assert bench.used() == 160
    letters = bench.bank.admin.execute(
        "SELECT count(*) FROM billing.dead_letters WHERE customer_id = %s", (bench.customer,)
    )
    assert letters.fetchone() == (0,)
