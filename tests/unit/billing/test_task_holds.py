"""A task's hold lives to its own deadline, and its end without a settlement is an alert."""

import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
import structlog.testing
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.ids import uuid7
from services.billing.accounts import Accounts
from services.billing.figures import Figures
from services.billing.holding.grants import Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import LEASE_LIVES_S, Expiry
from services.billing.listening import Listening
from tests.patience import promised


@pytest.fixture
async def pool(billing_url: str) -> AsyncIterator[db.Pool]:
    """The service's pool."""
    made = await db.open_pool(billing_url, role="billing", max_size=2)
    made.timeout = promised(made.timeout)
    yield made
    await made.close()


async def test_a_hold_that_the_database_refuses_keeps_no_other_from_its_end(pool: db.Pool, billing_url: str) -> None:
    """The others expire, an error line names the one, and the loop goes on."""
    figures, accounts = Figures(registry=CollectorRegistry()), Accounts(pool=pool)
    holds: dict[str, UUID] = {}
    for _ in range(2):
        customer_id = f"customer-{uuid4()}"
        await accounts.open(customer_id, welcome_nano_usd=1_000_000)
        holds[customer_id] = uuid7()
        ask = Ask(
            hold_id=holds[customer_id],
            customer_id=customer_id,
            kind=HoldKind.TASK,
            spender="tasks",
            amount_nano_usd=100,
            request_id=uuid7(),
            deadline_us=time.time_ns() // 1000 + 60_000_000,
        )
        await Grants(pool=pool, figures=figures, lease_lives_s=LEASE_LIVES_S).grant(ask)
    bad, good = holds
    with psycopg.connect(billing_url, autocommit=True) as owner:
        owner.execute(
            "UPDATE billing.holds SET expires_at = now() - interval '1 s' WHERE id = ANY(%s)", (list(holds.values()),)
        )
        refuse = (
            "ALTER TABLE billing.ledger_accounts ADD CONSTRAINT stuck CHECK (customer_id <> '{}' OR held > 0) NOT VALID"
        )
        owner.execute(refuse.format(bad))
        try:
            log = structlog.get_logger()
            expiry = Expiry(
                pool=pool, settle_grace_s=lambda: 0, listening=Listening(), figures=figures, log=log, quiet_s=0.0
            )
            with structlog.testing.capture_logs() as lines:
                await expiry.look()
        finally:
            owner.execute("ALTER TABLE billing.ledger_accounts DROP CONSTRAINT stuck")
    assert [(await accounts.read(each)).held_nano_usd for each in (bad, good)] == [100, 0]
    assert [line["customer_id"] for line in lines if line["event"] == "hold_not_expired"] == [bad]
    await expiry.look()
    assert (await accounts.read(bad)).held_nano_usd == 0


async def test_a_task_hold_past_its_deadline_is_released_with_an_alert(pool: db.Pool) -> None:
    """An error line and a counted release; before the deadline nothing happens."""
    registry, customer_id, hold_id = CollectorRegistry(), f"customer-{uuid4()}", uuid7()
    figures, accounts = Figures(registry=registry), Accounts(pool=pool)
    await accounts.open(customer_id, welcome_nano_usd=1_000_000)
    ask = Ask(
        hold_id=hold_id,
        customer_id=customer_id,
        kind=HoldKind.TASK,
        spender="tasks",
        amount_nano_usd=100,
        request_id=uuid7(),
        deadline_us=time.time_ns() // 1000 + 60_000_000,
    )
    await Grants(pool=pool, figures=figures, lease_lives_s=LEASE_LIVES_S).grant(ask)
    log = structlog.get_logger()
    expiry = Expiry(pool=pool, settle_grace_s=lambda: 0, listening=Listening(), figures=figures, log=log, quiet_s=0.0)
    await expiry.look()
    assert (await accounts.read(customer_id)).held_nano_usd == 100
    async with db.transaction(pool) as conn:
        await conn.execute("UPDATE billing.holds SET expires_at = now() - interval '1 s' WHERE id = %s", (hold_id,))
    with structlog.testing.capture_logs() as lines:
        await expiry.look()
    assert (await accounts.read(customer_id)).held_nano_usd == 0
    (line,) = [line for line in lines if line.get("hold_id") == str(hold_id)]
    assert (line["log_level"], line["hold_kind"], line["how"]) == ("error", "task", "released")
    released = registry.get_sample_value("tollbridge_billing_holds_expired_total", {"how": "released"})
    assert released is not None
    assert released >= 1
