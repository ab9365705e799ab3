"""A LEDGER that takes nothing holds the outbox up, and the metrics say so; all leaves once there is room."""

import asyncio
import contextlib
import dataclasses
from uuid import uuid4

import nats
import pytest
import structlog
from nats.js import api
from nats.js.errors import NotFoundError
from prometheus_client import CollectorRegistry

from chassis.bus import Bus
from chassis.errors import Code, TollbridgeError
from chassis.settings import SettingsError, load
from services.billing import config, events
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.backlog import BacklogWatch
from services.billing.figures import Figures
from services.billing.outbox import Outbox
from services.billing.settings import Settings
from tests.unit.billing.bank import PostgresBank
from tests.unit.billing.test_on_the_bus import _until

LOG = structlog.get_logger()
FULL = 4000


async def _full_ledger(nats_url: str) -> None:
    """As the code before made it: full, it refuses."""
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    spec = api.StreamConfig(
        name=events.LEDGER.name,
        subjects=list(events.LEDGER.subjects),
        discard=api.DiscardPolicy.NEW,
        max_bytes=FULL,
        max_age=600,
    )
    with contextlib.suppress(NotFoundError):  # it is there where another test has used the server
        await jetstream.delete_stream(spec.name)
    await jetstream.add_stream(spec)
    await jetstream.publish("tollbridge.ledger.v1.padding", b"\0" * (FULL - 100))
    await client.close()


@pytest.fixture
def own_bank(billing_url: str):
    """A replica of this test's own loop."""
    bank = PostgresBank(billing_url)
    yield bank
    bank.close()


def test_what_a_full_ledger_held_up_leaves_once_it_drops_its_oldest(own_bank: PostgresBank, nats_url: str) -> None:
    """The start of the new code makes the room; more than fits then goes through, and the metrics tell all of it."""
    bank, registry = own_bank, CollectorRegistry()
    figures = Figures(registry=registry)
    customer = f"customer-{uuid4()}"

    def said(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"tollbridge_billing_{name}", labels) or 0.0

    def waiting() -> int:
        (count,) = bank.admin.execute("SELECT count(*) FROM billing.outbox").fetchone()
        return count

    async def work() -> None:
        bus = await Bus.connect(nats_url, name="test", log=LOG)

        async def connected() -> bool:
            return bus.connected

        await _until(connected)
        notices = BalanceNotices(bus=bus, config=config.defaults)
        outbox = Outbox(pool=bank.pool, bus=bus, notices=notices, figures=figures, log=LOG)
        watch = BacklogWatch(pool=bank.pool, bus=bus, waiting=figures.waiting, log=LOG)
        with pytest.raises(TollbridgeError) as refused:
            await outbox.send_once()
        assert refused.value.code is Code.UNAVAILABLE
        await asyncio.sleep(0.01)
        await watch.look_at_books()
        assert said("outbox_oldest_seconds") > 0
        await watch.look_at_streams()
        assert 0.8 * FULL < said("stream_bytes", stream="LEDGER") <= said("stream_max_bytes", stream="LEDGER") == FULL
        assert said("stream_max_age_seconds", stream="LEDGER") == 600
        assert 0 < said("stream_reach_seconds", stream="LEDGER") < 600

        await events.ensure_streams(bus, [dataclasses.replace(events.LEDGER, max_bytes=FULL), events.CREDITS])
        for number in range(20):
            await outbox.send_once()
            assert waiting() == 0
            await bank.accounts.adjust(customer, 1, request_id=f"{customer}-{number}", reason="")
        await outbox.send_once()
        await watch.look_at_books()
        await watch.look_at_streams()
        assert said("outbox_oldest_seconds") == 0
        assert said("stream_bytes", stream="LEDGER") <= FULL
        assert said("transfers_published_total") >= 20
        await bus.close()

    bank.run(_full_ledger(nats_url))
    assert not bank.open(customer, 1_000)
    assert waiting() > 0
    bank.run(work())


def test_the_streams_are_as_large_as_the_settings_say() -> None:
    """And as long; CREDITS is as it is. Less than a few messages is a mistake."""
    own = load(Settings, {"TOLLBRIDGE_USAGE_STREAM_BYTES": str(1 << 30), "TOLLBRIDGE_LEDGER_STREAM_S": "86400"})
    usage, ledger, notices = events.sized(own)
    assert (usage.max_bytes, usage.max_age_s) == (1 << 30, events.STREAM_S)
    assert (ledger.max_bytes, ledger.max_age_s) == (events.STREAM_BYTES, 86_400)
    assert notices is events.CREDITS
    with pytest.raises(SettingsError):
        load(Settings, {"TOLLBRIDGE_USAGE_STREAM_BYTES": "8"})
