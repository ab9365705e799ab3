"""I8: the streams USAGE and LEDGER make the live ledger again, and a ledger that was changed behind them is found."""

import asyncio
import json
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis.bus import Bus
from chassis.ids import uuid7
from cli import replay as command
from services.billing import config, events
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.consumer import UsageConsumer
from services.billing.figures import Figures
from services.billing.ledger import Usage, UsageKind
from services.billing.outbox import Outbox
from tests.unit.billing.bank import PostgresBank, event
from tollbridge.usage.v1 import usage_pb2

LOG = structlog.get_logger()


def _usage(customer: str, amount: int, request_id: UUID) -> Usage:
    return Usage(
        request_id=request_id,
        kind=UsageKind.CHARGE,
        customer_id=customer,
        hold_id=None,
        closes_hold=False,
        charge_nano_usd=amount,
    )


async def publish_and_apply(bank: PostgresBank, nats_url: str, sent: list[usage_pb2.UsageRecorded]) -> None:
    """Usage in by the bus, transfers out by the outbox."""
    bus = await Bus.connect(nats_url, name="test", log=LOG)
    await events.ensure_streams(bus)
    figures = Figures(registry=CollectorRegistry())
    consumer = UsageConsumer(settlement=bank.settlement, figures=figures, log=LOG)
    task = asyncio.create_task(bus.consume(events.APPLY_USAGE, consumer.handle))
    batch = usage_pb2.UsageBatch(events=sent).SerializeToString()
    await bus.publish(
        events.USAGE_RECORDED, batch, event_id=str(uuid4()), event_type=events.USAGE_RECORDED, source="test"
    )
    async with asyncio.timeout(20):
        info = None
        while info is None or info.num_pending or info.num_ack_pending or not info.delivered.consumer_seq:
            await asyncio.sleep(0.05)
            info = await bus._client.jetstream().consumer_info("USAGE", events.APPLY_USAGE.durable)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    outbox = Outbox(
        pool=bank.pool, bus=bus, notices=BalanceNotices(bus=bus, config=config.defaults), figures=figures, log=LOG
    )
    while await outbox.send_once():
        pass
    await bus.close()


async def _spoil(nats_url: str) -> None:
    """Somebody publishes what billing never would."""
    bus = await Bus.connect(nats_url, name="test", log=LOG)
    kind = events.LEDGER_TRANSFERRED
    await bus.publish(kind, b"\xff", event_id=str(uuid4()), event_type=kind, source="test")
    await bus.close()


def _replay(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    code = command.replay(None, as_json=True)
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_streams_make_the_live_ledger(
    bank: PostgresBank,
    billing_url: str,
    nats_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Charges, losses, top-ups, corrections, refunds and dead letters replay exactly; each change is named."""
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", billing_url)
    monkeypatch.setenv("TOLLBRIDGE_NATS_URL", nats_url)
    customer, refunded = f"customer-{uuid4()}", uuid7()
    assert not bank.open(customer, 1_000)
    assert not bank.adjust(customer, 500, "a")
    assert not bank.adjust(customer, -50, "b")
    sent = [event(_usage(customer, amount, uuid7())) for amount in (1, 20, 300)]
    sent += [event(_usage(customer, 100, refunded)), event(_usage(customer, 5, uuid7()), charge_nano_usd=6)]
    bank.run(publish_and_apply(bank, nats_url, sent))
    assert not bank.refund(refunded, 40)
    assert not bank.settle([_usage(customer, 5_000, uuid7())])  # by RPC, and more than they have
    code, report = _replay(capsys)
    assert (code, report["examples"]) == (0, [])
    assert (report["complete"], report["transfers"], report["usage_events"]) == (True, 7, 5)
    assert (report["waiting"], report["on_no_stream"]) == (0, 1)
    bank.run(_spoil(nats_url))
    code, report = _replay(capsys)
    assert (code, report["examples"]) == (1, ["message 2 of LEDGER is no batch of transfers"])

    with psycopg.connect(billing_url, autocommit=True, options="-c session_replication_role=replica") as admin:
        admin.execute("UPDATE billing.ledger_accounts SET posted = posted + 1, credited = credited + 1")
        code, report = _replay(capsys)
        assert code == 1
        assert f"{customer} has" in str(report["examples"])
        admin.execute("UPDATE billing.ledger_accounts SET posted = posted - 1, credited = credited - 1")
        lost = admin.execute("DELETE FROM billing.transfers WHERE amount = 300 RETURNING id").fetchone()
        admin.execute("DELETE FROM billing.usage_events WHERE charge = 20")
        assert lost is not None
        code, report = _replay(capsys)
        assert code == 1
        assert f"transfer {lost[0]} (charge:" in str(report["examples"])
        assert f"request {sent[1].request_id} is on USAGE and was neither" in str(report["examples"])
