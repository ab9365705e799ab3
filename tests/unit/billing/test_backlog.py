"""What the metrics say of usage, letters and holds that wait."""

import asyncio

import structlog
from prometheus_client import CollectorRegistry

from chassis.bus import Delivery
from chassis.ids import uuid7
from services.billing import events
from services.billing.backlog import BacklogWatch
from services.billing.figures import Waiting
from tests.unit.billing.bank import PostgresBank
from tests.unit.billing.test_on_the_bus import _bus, _until

LOG = structlog.get_logger()


def test_the_metrics_say_what_waits_for_whom(bank: PostgresBank, nats_url: str) -> None:
    """Messages that nobody has acked, letters that nobody has resolved, and what open holds hold, by kind."""
    registry = CollectorRegistry()
    bank.open("waits", 1_000)
    for amount in (300, 200):
        assert bank.grant(uuid7(), "waits", amount, amount, uuid7()) == ""
    bank.run(bank.settlement.set_aside(b"no batch", "the message is no batch of usage events"))
    bank.run(_look(bank, nats_url, registry))
    assert registry.get_sample_value("tollbridge_billing_usage_lag") == 3
    assert registry.get_sample_value("tollbridge_billing_open_dead_letters") == 1
    assert registry.get_sample_value("tollbridge_billing_holds", {"kind": "lease"}) == 2
    assert registry.get_sample_value("tollbridge_billing_held_nano_usd", {"kind": "lease"}) == 500
    assert registry.get_sample_value("tollbridge_billing_held_nano_usd", {"kind": "task"}) == 0


async def _look(bank: PostgresBank, nats_url: str, registry: CollectorRegistry) -> None:
    """Makes the durable, and three messages that it is given and does not ack."""
    bus = await _bus(nats_url)
    given: list[Delivery] = []

    async def take(deliveries: list[Delivery]) -> None:
        given.extend(deliveries)

    consuming = asyncio.create_task(bus.consume(events.APPLY_USAGE, take))
    try:
        for _ in range(3):
            await bus.publish(events.USAGE_RECORDED, b"", event_id=str(uuid7()), event_type="t", source="/test")

        async def all_given() -> bool:
            return len(given) == 3

        await _until(all_given)
        watch = BacklogWatch(pool=bank.pool, bus=bus, waiting=Waiting(registry=registry), log=LOG)
        await watch.look_at_bus()
        await watch.look_at_books()
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await bus.close()
