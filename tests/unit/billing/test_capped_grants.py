"""Capped grants under pressure, on PostgreSQL: what the cap pays for and no more, in each period anew."""

import asyncio
import dataclasses
import datetime
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7, uuid7_at
from services.billing.accounts import Accounts
from services.billing.figures import Figures
from services.billing.holding import hold_store
from services.billing.holding.capped_grants import CappedGrants
from services.billing.holding.caps import Cap, Per, cap_of
from services.billing.holding.grants import Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import LEASE_LIVES_S
from services.billing.ledger import Usage, UsageKind
from services.billing.proof.reconcile import verify
from tests.patience import promised
from tests.unit.billing.bank import SPENDER, PostgresBank, leases_of

NOON = int(datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC).timestamp() * 1000)
DAY_MS = 86_400_000


@pytest.fixture
async def pool(billing_url: str) -> AsyncIterator[db.Pool]:
    """The service's pool."""
    made = await db.open_pool(billing_url, role="billing", max_size=4)
    made.timeout = promised(made.timeout)
    yield made
    await made.close()


@pytest.fixture
def grants(pool: db.Pool) -> CappedGrants:
    """What is tested."""
    return CappedGrants(pool=pool, figures=Figures(registry=CollectorRegistry()), lease_lives_s=LEASE_LIVES_S)


async def _customer(pool: db.Pool, credit: int) -> str:
    customer_id = f"customer-{uuid4()}"
    await Accounts(pool=pool).open(customer_id, welcome_nano_usd=credit)
    return customer_id


def _ask(customer_id: str, amount: int, request_id: UUID | None = None) -> Ask:
    return Ask(
        hold_id=uuid7(),
        customer_id=customer_id,
        kind=HoldKind.LEASE,
        spender=SPENDER,
        amount_nano_usd=amount,
        request_id=request_id or uuid7(),
    )


async def _cap(pool: db.Pool, cap: Cap) -> tuple[int, int, int, int]:
    row = (await Accounts(pool=pool).caps([cap.id]))[cap.id]
    return row.cap_nano_usd, row.spent_nano_usd, row.held_nano_usd, row.overrun_nano_usd


async def test_fifty_at_once_on_a_cap_for_five_and_five_more_the_next_day(
    pool: db.Pool, grants: CappedGrants, billing_url: str
):
    """Exactly five are granted, 45 refused as spend_cap_reached; the request's id says which UTC day it is."""
    customer_id, owner = await _customer(pool, 1_000_000), f"key:{uuid4()}"

    async def one(at_ms: int) -> str:
        request_id = uuid7_at(at_ms)
        try:
            cap = cap_of(owner, Per.DAY, 500, request_id=request_id)
            await grants.grant(_ask(customer_id, 100, request_id), caps=[cap], wait_s=0.3)
        except TollbridgeError as error:
            return str(error.code)
        return "granted"

    for day in range(2):
        outcomes = Counter(await asyncio.gather(*(one(NOON + day * DAY_MS) for _ in range(50))))
        assert outcomes == {"granted": 5, "spend_cap_reached": 45}
    assert (await Accounts(pool=pool).read(customer_id)).held_nano_usd == 1000
    assert verify(billing_url).clean


async def test_a_used_up_cap_refuses_at_once_and_one_that_running_requests_hold_after_they_had_time(
    pool: db.Pool, grants: CappedGrants, bank: PostgresBank
):
    """A release within the wait turns the refusal into a grant."""
    customer_id, cap = await _customer(pool, 1000), Cap(id=f"key:{uuid4()}/total", amount_nano_usd=100)
    first = _ask(customer_id, 80)
    await grants.grant(first, caps=[cap])
    second = asyncio.create_task(grants.grant(_ask(customer_id, 60), caps=[cap]))
    await asyncio.to_thread(bank.settle, [_charge(first, 30)])
    assert (await second).amount_nano_usd == 60
    assert await _cap(pool, cap) == (100, 30, 60, 0)
    started_s = asyncio.get_running_loop().time()
    with pytest.raises(TollbridgeError) as caught:
        await grants.grant(_ask(customer_id, 71), caps=[cap], wait_s=60)
    assert asyncio.get_running_loop().time() - started_s < 1
    assert caught.value.code is Code.SPEND_CAP_REACHED
    assert caught.value.details == {"affordable_nano_usd": "10", "cap": "total"}


async def test_credit_that_a_silent_spender_may_have_left_is_recalled_and_no_402(pool: db.Pool):
    """Short of credit, not of cap: as without caps."""
    customer_id, figures = await _customer(pool, 100), Figures(registry=CollectorRegistry())
    recalled: list[str] = []
    capped = CappedGrants(pool=pool, figures=figures, lease_lives_s=LEASE_LIVES_S, recall=recalled.append)
    shared = dataclasses.replace(_ask(customer_id, 95), spender="silent", request_id=None)
    await Grants(pool=pool, figures=figures, lease_lives_s=LEASE_LIVES_S).grant(shared)
    with pytest.raises(TollbridgeError) as caught:
        await capped.grant(_ask(customer_id, 10), caps=[Cap(id=f"key:{uuid4()}/total", amount_nano_usd=50)], wait_s=1.0)
    assert caught.value.code is Code.BALANCE_RESERVED
    assert set(recalled) == {customer_id}


async def test_only_want_of_credit_is_counted_as_insufficient(pool: db.Pool):
    """A customer that nobody knows and another hold's id are mistakes of the caller, not of a balance."""
    registry = CollectorRegistry()
    capped = CappedGrants(pool=pool, figures=Figures(registry=registry), lease_lives_s=LEASE_LIVES_S)
    cap = Cap(id=f"key:{uuid4()}/total", amount_nano_usd=500)
    taken = _ask(await _customer(pool, 100), 10)
    await capped.grant(taken, caps=[cap])
    refused = []
    for ask in (
        _ask("nobody", 10),
        dataclasses.replace(taken, spender="another"),
        _ask(await _customer(pool, 5), 10),
    ):
        with pytest.raises(TollbridgeError) as caught:
            await capped.grant(ask, caps=[cap])
        refused.append(caught.value.code)
    assert refused == [Code.NOT_FOUND, Code.IDEMPOTENCY_MISMATCH, Code.INSUFFICIENT_CREDITS]
    assert registry.get_sample_value("tollbridge_billing_grants_total", {"outcome": "insufficient"}) == 1


async def test_what_is_given_back_in_the_last_moment_is_there_for_a_capped_grant(
    pool: db.Pool, grants: CappedGrants, monkeypatch: pytest.MonkeyPatch
):
    """As without caps: who has been heard is asked before the last try and not after it."""
    customer_id = await _customer(pool, 100)
    other = dataclasses.replace(_ask(customer_id, 95), spender="other")
    await Grants(pool=pool, figures=Figures(registry=CollectorRegistry()), lease_lives_s=LEASE_LIVES_S).grant(other)
    look = hold_store.unanswered

    async def after_an_answer(*args: Any, **kwargs: Any) -> int:
        await leases_of(pool).give_back(hold_id=other.hold_id, spender="other")
        return await look(*args, **kwargs)

    monkeypatch.setattr(hold_store, "unanswered", after_an_answer)
    cap = Cap(id=f"key:{uuid4()}/total", amount_nano_usd=50)
    assert (await grants.grant(_ask(customer_id, 10), caps=[cap], wait_s=0)).amount_nano_usd == 10


async def test_between_least_and_amount_the_most_is_granted_that_cap_and_balance_pay(
    pool: db.Pool, grants: CappedGrants
):
    """Whichever is tighter."""
    customer_id, cap = await _customer(pool, 150), Cap(id=f"key:{uuid4()}/total", amount_nano_usd=100)
    assert (await grants.grant(_ask(customer_id, 500), caps=[cap], least_nano_usd=80)).amount_nano_usd == 100
    other = Cap(id=f"key:{uuid4()}/total", amount_nano_usd=100)
    assert (await grants.grant(_ask(customer_id, 500), caps=[other], least_nano_usd=1)).amount_nano_usd == 50


async def test_the_same_capped_hold_id_is_the_same_grant(pool: db.Pool, grants: CappedGrants):
    """At once or later it counts once; another customer's use of the id is a mismatch."""
    customer_id, cap = await _customer(pool, 100), Cap(id=f"key:{uuid4()}/total", amount_nano_usd=50)
    ask = _ask(customer_id, 40)
    both = await asyncio.gather(grants.grant(ask, caps=[cap]), grants.grant(ask, caps=[cap]))
    assert [granted.amount_nano_usd for granted in both] == [40, 40]
    assert await _cap(pool, cap) == (50, 0, 40, 0)
    stranger = dataclasses.replace(ask, customer_id=await _customer(pool, 100))
    with pytest.raises(TollbridgeError) as caught:
        await grants.grant(stranger, caps=[Cap(id=f"key:{uuid4()}/total", amount_nano_usd=50)])
    assert caught.value.code is Code.IDEMPOTENCY_MISMATCH


async def test_a_capped_hold_is_swapped_for_a_dearer_one_under_a_cap_for_one(pool: db.Pool, grants: CappedGrants):
    """Never held twice, never refused for what its own first hold holds; refused or not, the first one ends."""
    customer_id, cap = await _customer(pool, 1000), Cap(id=f"key:{uuid4()}/total", amount_nano_usd=100)
    first = _ask(customer_id, 80)
    await grants.grant(first, caps=[cap])
    second = dataclasses.replace(_ask(customer_id, 100), replaces=first.hold_id)
    assert (await grants.grant(second, caps=[cap], wait_s=0)).amount_nano_usd == 100
    assert await _cap(pool, cap) == (100, 0, 100, 0)
    third = dataclasses.replace(_ask(customer_id, 101), replaces=second.hold_id)
    with pytest.raises(TollbridgeError):
        await grants.grant(third, caps=[cap], wait_s=0)
    assert await _cap(pool, cap) == (100, 0, 0, 0)


async def test_what_a_request_costs_counts_in_its_own_period_whenever_it_settles(
    pool: db.Pool, grants: CappedGrants, bank: PostgresBank, billing_url: str
):
    """Late usage, usage beyond the hold and the refund all find the cap account of the day the request began."""
    customer_id, began = await _customer(pool, 1000), uuid7()
    cap = cap_of(f"customer:{customer_id}", Per.DAY, 100, request_id=began)
    ask = _ask(customer_id, 80, began)
    await grants.grant(ask, caps=[cap])
    for _ in range(2):  # the first time it only lapses
        await asyncio.to_thread(bank.expire, ask.hold_id)
    assert await _cap(pool, cap) == (100, 0, 0, 0)
    await asyncio.to_thread(bank.settle, [_charge(ask, 130)])
    assert await _cap(pool, cap) == (100, 100, 0, 30)
    await asyncio.to_thread(bank.refund, began, 50)
    assert await _cap(pool, cap) == (100, 80, 0, 0)
    assert verify(billing_url).clean


async def test_the_database_itself_keeps_the_cap(as_billing: psycopg.Connection):
    """Whatever the code believed: spent + held <= cap is a constraint."""
    as_billing.execute("INSERT INTO billing.cap_accounts (id, cap) VALUES ('key:x/total', 10)")
    with pytest.raises(psycopg.errors.CheckViolation):
        as_billing.execute("UPDATE billing.cap_accounts SET held = 6, spent = 5 WHERE id = 'key:x/total'")


def _charge(ask: Ask, charge: int) -> Usage:
    assert ask.request_id is not None
    return Usage(
        request_id=ask.request_id,
        kind=UsageKind.CHARGE,
        customer_id=ask.customer_id,
        hold_id=ask.hold_id,
        closes_hold=True,
        charge_nano_usd=charge,
    )
