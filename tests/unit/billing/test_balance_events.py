"""A customer's low or exhausted balance is told once for each time it falls there, and never without a transfer."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from uuid import uuid4

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from chassis.bus import Bus, ConsumerSpec, Delivery
from chassis.db import Connection
from chassis.ids import uuid7
from services.billing import config, events
from services.billing import outbox as outbox_module
from services.billing.alerts import balance_events
from services.billing.alerts.balance_events import Level, Lines, Step
from services.billing.alerts.balance_notices import BalanceNotices, subject_token
from services.billing.figures import Figures
from services.billing.ledger import Usage, UsageKind
from services.billing.outbox import Outbox
from services.billing.written import Written
from tests.conftest import RunningServer
from tests.unit.billing.bank import PostgresBank, event
from tollbridge.billing.v1 import statements_pb2

LINES = Lines(low_nano_usd=100, exhausted_nano_usd=10)
CONFIG = dataclasses.replace(config.defaults(), low_balance_nano_usd=100, exhausted_balance_nano_usd=10)
WITHIN_S = 20.0
LOG = structlog.get_logger()


def _steps(*changes: int, start: int = 0) -> list[Step]:
    steps, balance = [], start
    for version, change in enumerate(changes, 1):
        balance += change
        steps.append(
            Step(
                transfer_id=uuid7(),
                customer_id="c",
                version=version,
                change_nano_usd=change,
                balance_nano_usd=balance,
                at_us=1,
            )
        )
    return steps


def _levels(steps: list[Step], lines: Lines = LINES) -> list[tuple[Level, int]]:
    found = balance_events.found(steps, {}, otherwise=lines)
    sequences = [each.sequence for each in found]
    assert sequences == sorted(set(sequences))
    return [(each.level, each.step.balance_nano_usd) for each in found]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ((150, -50), []),
        ((150, -51), [(Level.LOW, 99)]),
        ((150, -60, -10, -5), [(Level.LOW, 90)]),
        ((150, -60, 50, -45), [(Level.LOW, 90), (Level.LOW, 95)]),
        ((150, -60, 5, -5), [(Level.LOW, 90)]),
        ((150, -140), [(Level.LOW, 10), (Level.EXHAUSTED, 10)]),
        ((50, -45), [(Level.EXHAUSTED, 5)]),
        ((50, -45, -5), [(Level.EXHAUSTED, 5)]),
        ((5, -5), []),
    ],
)
def test_an_event_comes_when_the_balance_falls_through_its_line(
    changes: tuple[int, ...], told: list[tuple[Level, int]]
):
    """Once, and again only after money lifted it above; who starts below hears nothing."""
    assert _levels(_steps(*changes)) == told


def test_a_line_of_a_customers_own_goes_before_the_default_and_nothing_is_below_0():
    """Low at 0 is never low."""
    steps = _steps(1_000, -1_000)
    own = Lines(low_nano_usd=0, exhausted_nano_usd=0)
    assert [each.level for each in balance_events.found(steps, {"c": own}, otherwise=LINES)] == [Level.EXHAUSTED]


@given(st.lists(st.integers(-300, 300), max_size=30))
@settings(max_examples=100)
def test_between_two_events_of_a_kind_the_balance_was_above_the_line(changes: list[int]):
    """Whatever moves, and the same steps make the same events with the same ids."""
    steps = _steps(*changes, start=200)
    found = balance_events.found(steps, {}, otherwise=LINES)
    assert found == balance_events.found(steps, {}, otherwise=LINES)
    for level, is_above in ((Level.LOW, lambda it: it >= 100), (Level.EXHAUSTED, lambda it: it > 10)):
        below = not is_above(200)
        expected = 0
        for step in steps:
            expected += is_above(step.balance_nano_usd) is False and not below
            below = not is_above(step.balance_nano_usd)
        assert len([each for each in found if each.level is level]) == expected


def test_a_customers_id_is_one_token_of_the_subject():
    """Whatever it looks like."""
    for customer in ("a.b", "*", ">", "a~b/c", str(uuid4())):
        assert not set(subject_token(customer)) & set(".*> ")
    assert len({subject_token(each) for each in ("a.b", "a%2Eb")}) == 2


async def _until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def _on_the_bus(nats_url: str, work: Callable[[Bus], Awaitable[None]]) -> None:
    bus = await Bus.connect(nats_url, name="test", log=LOG)
    await _until(lambda: bus.connected)
    await events.ensure_streams(bus)
    await work(bus)
    await bus.close()


@pytest.fixture
def own_bank(billing_url: str):
    """A replica of this test's own loop."""
    bank = PostgresBank(billing_url)
    yield bank
    bank.close()


def test_what_a_charge_crosses_leaves_with_its_transfer(
    own_bank: PostgresBank, nats_server: RunningServer, nats_url: str
):
    """On the customer's own subject, once each, with the balance after the transfer."""
    bank, customer = own_bank, f"customer.{uuid4()}"
    heard: list[tuple[str, statements_pb2.BalanceCrossed]] = []
    assert not bank.open(customer, 150)

    async def hear(deliveries: list[Delivery]) -> None:
        for each in deliveries:
            crossed = statements_pb2.BalanceCrossed.FromString(each.data)
            if crossed.customer_id == customer:
                heard.append((each.subject, crossed))
            await each.ack()

    async def work(bus: Bus) -> None:
        spec = ConsumerSpec(
            stream=events.CREDITS.name,
            durable="ears",
            subject="tollbridge.credits.v1.>",
            max_ack_pending=100,
            ack_wait_s=5,
        )
        ears = asyncio.create_task(bus.consume(spec, hear))
        notices = BalanceNotices(bus=bus, config=lambda: CONFIG)
        figures = Figures(registry=CollectorRegistry())
        outbox = Outbox(pool=bank.pool, bus=bus, notices=notices, figures=figures, log=LOG)
        for charge in (40, 20, 30, 55):
            usage = Usage(
                request_id=uuid7(),
                kind=UsageKind.CHARGE,
                customer_id=customer,
                hold_id=None,
                closes_hold=False,
                charge_nano_usd=charge,
            )
            await bank.settlement.apply([event(usage)])
        while await outbox.send_once():
            pass
        await _until(lambda: len(heard) == 2)
        ears.cancel()
        await asyncio.gather(ears, return_exceptions=True)

    bank.run(_on_the_bus(nats_url, work))
    token = subject_token(customer)
    assert [(subject, it.balance_nano_usd, it.line_nano_usd) for subject, it in heard] == [
        (f"tollbridge.credits.v1.low.{token}", 90, 100),
        (f"tollbridge.credits.v1.exhausted.{token}", 5, 10),
    ]


class _Refusing(BalanceNotices):
    """Has the database refuse the first transaction."""

    refused = 0

    async def tell(self, connection: Connection, leaving: Iterable[Written]) -> None:
        if not self.refused:
            self.refused += 1
            await connection.execute("SELECT 1 / 0")


def test_what_the_database_refuses_once_leaves_with_the_next_round(
    own_bank: PostgresBank, nats_url: str, monkeypatch: pytest.MonkeyPatch
):
    """The loop does not end with the error: that would take the whole process with it."""
    monkeypatch.setattr(outbox_module, "TROUBLE_PAUSE_S", 0.01)
    bank = own_bank
    assert not bank.open(f"customer-{uuid4()}", 150)

    async def work(bus: Bus) -> None:
        notices = _Refusing(bus=bus, config=lambda: CONFIG)
        figures = Figures(registry=CollectorRegistry())
        loop = asyncio.create_task(
            Outbox(pool=bank.pool, bus=bus, notices=notices, figures=figures, log=LOG).run(), name="outbox"
        )
        await _until(lambda: loop.done() or not _waiting(bank))
        assert (loop.done(), notices.refused, _waiting(bank)) == (False, 1, 0)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)

    bank.run(_on_the_bus(nats_url, work))


def _waiting(bank: PostgresBank) -> int:
    row = bank.admin.execute("SELECT count(*) FROM billing.outbox").fetchone()
    assert row is not None
    return int(row[0])
