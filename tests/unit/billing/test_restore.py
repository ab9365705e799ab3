"""A ledger that is restored to an earlier time becomes what it was, as docs/operating.md says."""

import json
from uuid import uuid4

import nats
import psycopg
import pytest
from psycopg import sql

from chassis.ids import uuid7
from cli import replay as command
from services.billing import events
from services.billing.ledger import Usage, UsageKind
from tests.unit.billing.bank import PostgresBank, event
from tests.unit.billing.test_replay import publish_and_apply
from tollbridge.usage.v1 import usage_pb2


def charge(customer: str, amount: int) -> usage_pb2.UsageRecorded:
    """A request's usage, on whose hold nobody insists."""
    usage = Usage(
        request_id=uuid7(),
        kind=UsageKind.CHARGE,
        customer_id=customer,
        hold_id=None,
        closes_hold=False,
        charge_nano_usd=amount,
    )
    return event(usage)


def copied(url: str) -> str:
    """The URL of a copy of the database as it is now; nobody may be connected to it."""
    server, _, name = url.rpartition("/")
    restored = f"restored_{uuid4().hex[:12]}"
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(restored), sql.Identifier(name))
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(statement)
    return f"{server}/{restored}"


async def forget_what_was_applied(nats_url: str) -> None:
    """`nats consumer rm USAGE billing-apply-usage`."""
    client = await nats.connect(nats_url)
    await client.jetstream().delete_consumer(events.USAGE.name, events.APPLY_USAGE.durable)
    await client.close()


def test_a_restored_ledger_becomes_what_it_was(
    billing_url: str, nats_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ledger replay --lost` names the credit that is gone; it is given back, USAGE is read anew, all is as before."""
    customer = f"customer-{uuid4()}"
    before = PostgresBank(billing_url)
    assert not before.open(customer, 1_000)
    before.run(publish_and_apply(before, nats_url, [charge(customer, 100)]))
    before.close()
    restored_url = copied(billing_url)

    later = PostgresBank(billing_url)
    assert not later.adjust(customer, 5_000, "top-up")
    later.run(publish_and_apply(later, nats_url, [charge(customer, 3_000), charge(customer, 7)]))
    credited, used, held, version = later.account(customer)
    assert (credited, used, held) == (6_000, 3_107, 0)
    later.close()

    monkeypatch.setenv("TOLLBRIDGE_NATS_URL", nats_url)
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", billing_url)
    assert command.show_lost(None, as_json=True) == command.CLEAN
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", restored_url)
    assert command.show_lost(None, as_json=True) == command.DIFFERENCES
    (lost,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (lost["kind"], lost["credit"], lost["amount_nano_usd"]) == ("adjustment", f"credits:{customer}", 5_000)

    restored = PostgresBank(restored_url)
    assert not restored.adjust(customer, lost["amount_nano_usd"], lost["id"])
    restored.run(forget_what_was_applied(nats_url))
    restored.run(publish_and_apply(restored, nats_url, []))
    assert restored.account(customer) == (credited, used, held, version)
    restored.close()
