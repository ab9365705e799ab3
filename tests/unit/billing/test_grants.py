"""Grants under pressure: as many as the balance pays for, the rest refused for money and for nothing else."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.ids import now_floor, uuid7
from services.billing.accounts import Accounts
from services.billing.figures import Figures
from services.billing.holding import hold_store
from services.billing.holding.grants import Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import LEASE_LIVES_S, Page, Stated
from services.billing.proof.reconcile import verify
from tests.patience import promised
from tests.unit.billing.bank import leases_of

ASKED_AGAIN = 50


@pytest.fixture
async def pool(billing_url: str) -> AsyncIterator[db.Pool]:
    """The service's pool."""
    made = await db.open_pool(billing_url, role="billing", max_size=4)
    made.timeout = promised(made.timeout)
    yield made
    await made.close()


@pytest.fixture
def grants(pool: db.Pool) -> Grants:
    """What is tested."""
    return Grants(pool=pool, figures=Figures(registry=CollectorRegistry()), lease_lives_s=LEASE_LIVES_S)


async def _customer(pool: db.Pool, credit: int) -> str:
    customer_id = f"customer-{uuid4()}"
    await Accounts(pool=pool).open(customer_id, welcome_nano_usd=credit)
    return customer_id


def _ask(customer_id: str, amount: int, hold_id: UUID | None = None) -> Ask:
    return Ask(
        hold_id=hold_id or uuid7(),
        customer_id=customer_id,
        kind=HoldKind.LEASE,
        spender="s",
        amount_nano_usd=amount,
    )


async def test_two_hundred_at_once_on_a_balance_for_ten(pool: db.Pool, grants: Grants, billing_url: str):
    """Exactly ten are granted, and 190, who ask again when told to, are refused as insufficient_credits once their
    spender has nothing to give."""
    customer_id = await _customer(pool, 1000)
    granted: list[UUID] = []

    async def one() -> str:
        ask = _ask(customer_id, 100)
        for _ in range(ASKED_AGAIN):
            try:
                await grants.grant(ask, wait_s=0.6)
            except TollbridgeError as error:
                if error.retry_after_s:  # a busy machine's spender has not said in time what it holds
                    continue
                return str(error.code)
            granted.append(ask.hold_id)
            return "granted"
        return "never told"

    async def answer() -> None:
        while True:
            now = now_floor()
            leases = [Stated(hold_id=hold_id, open_nano_usd=100, spent_nano_usd=0) for hold_id in granted]
            page = Page(spender="s", as_of=now, from_id=now, until_id=now, leases=leases)
            await leases_of(pool).state(page)
            await asyncio.sleep(0.1)

    answering = asyncio.create_task(answer())
    outcomes = Counter(await asyncio.gather(*(one() for _ in range(200))))
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    assert outcomes == {"granted": 10, "insufficient_credits": 190}
    assert verify(billing_url).clean


async def test_a_call_waits_for_money_that_the_customers_own_requests_hold(pool: db.Pool, grants: Grants):
    """A release within the wait turns a refusal into a grant."""
    customer_id = await _customer(pool, 100)
    first = _ask(customer_id, 100)
    await grants.grant(first)
    second = asyncio.create_task(grants.grant(_ask(customer_id, 60)))
    await leases_of(pool).give_back(hold_id=first.hold_id, spender="s")
    assert (await second).amount_nano_usd == 60


async def test_a_call_that_can_not_be_paid_stands_in_no_other_ones_way(pool: db.Pool):
    """Asked for together: who comes after it in the batch is granted at once, in the order of asking."""
    customer_id = await _customer(pool, 100)
    asks = [_ask(customer_id, amount) for amount in (150, 60, 101, 40, 1)]
    async with db.transaction(pool) as connection:
        answers = await hold_store.read_answers(
            await hold_store.send_grant(connection, asks, lease_lives_s=LEASE_LIVES_S), asks
        )
    assert [answer.granted_nano_usd for answer in answers] == [None, 60, None, 40, None]


async def test_between_least_and_amount_the_most_affordable_is_granted(pool: db.Pool, grants: Grants):
    """And below least it is a refusal that says what is affordable."""
    customer_id = await _customer(pool, 100)
    assert (await grants.grant(_ask(customer_id, 500), least_nano_usd=80)).amount_nano_usd == 100
    with pytest.raises(TollbridgeError) as caught:
        await grants.grant(_ask(customer_id, 500), least_nano_usd=101)
    assert caught.value.code is Code.INSUFFICIENT_CREDITS
    assert caught.value.details == {"affordable_nano_usd": "0", "balance_nano_usd": "100"}


async def test_the_same_hold_id_is_the_same_grant(pool: db.Pool, grants: Grants):
    """Asked again at once or later it holds once; another customer's use of the id is a mismatch."""
    customer_id = await _customer(pool, 100)
    ask = _ask(customer_id, 40)
    both = await asyncio.gather(grants.grant(ask), grants.grant(ask))
    assert [granted.amount_nano_usd for granted in both] == [40, 40]
    assert (await Accounts(pool=pool).read(customer_id)).held_nano_usd == 40
    with pytest.raises(TollbridgeError) as caught:
        await grants.grant(_ask(await _customer(pool, 100), 40, ask.hold_id))
    assert caught.value.code is Code.IDEMPOTENCY_MISMATCH


async def test_a_hold_is_swapped_for_a_dearer_one_on_a_balance_that_pays_for_one(pool: db.Pool, grants: Grants):
    """In one transaction: never held twice, never refused for the money that its own first hold holds."""
    customer_id = await _customer(pool, 100)
    first = _ask(customer_id, 80)
    await grants.grant(first)
    second = dataclasses.replace(_ask(customer_id, 100), replaces=first.hold_id)
    assert (await grants.grant(second, wait_s=0)).amount_nano_usd == 100
    assert (await grants.grant(second, wait_s=0)).amount_nano_usd == 100
    assert (await Accounts(pool=pool).read(customer_id)).held_nano_usd == 100


async def test_a_swap_that_is_refused_still_ends_the_first_hold(pool: db.Pool, grants: Grants, billing_url: str):
    """The request has come to its end; and nobody can end another spender's hold this way."""
    customer_id = await _customer(pool, 100)
    first, others = _ask(customer_id, 60), dataclasses.replace(_ask(customer_id, 30), spender="other")
    await grants.grant(first)
    await grants.grant(others)
    for replaced in (first, others):
        with pytest.raises(TollbridgeError) as caught:
            await grants.grant(dataclasses.replace(_ask(customer_id, 101), replaces=replaced.hold_id), wait_s=0)
        assert caught.value.code is Code.INSUFFICIENT_CREDITS
    assert (await Accounts(pool=pool).read(customer_id)).held_nano_usd == 30
    assert verify(billing_url).clean
