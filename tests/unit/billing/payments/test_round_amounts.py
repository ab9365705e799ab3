"""Payments in USDT over round sums, for operators who ask for them: never a way to somebody else's money."""

import msgspec
import pytest

from services.billing.config import CryptoSection
from services.billing.payments.payment import State
from tests.fakes.tron import SHOP, FakeTron
from tests.unit.billing.payments.cashier import CONFIRMATIONS, Cashier

TEN = 10_000_000
"""In millionths of a USDT."""


@pytest.fixture
def section(tron: FakeTron) -> CryptoSection:
    """The configuration, with round sums."""
    plain = CryptoSection(address=SHOP, api_base=tron.url, api_key="canary", confirmations=CONFIRMATIONS)
    return msgspec.structs.replace(plain, round_first=True)


async def arrived(cashier: Cashier, tron: FakeTron, amount_micro_usdt: int) -> None:
    tron.send(amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()


async def test_the_first_payment_asks_for_just_its_sum(cashier: Cashier, tron: FakeTron) -> None:
    """And is credited for it; one over another sum is told from it as ever."""
    first, other = await cashier.begin(10), await cashier.begin(20)
    assert first.amount_micro_usdt == TEN
    assert other.amount_micro_usdt > 2 * TEN
    await arrived(cashier, tron, TEN)
    assert (await cashier.now(first)).state is State.SETTLED
    await arrived(cashier, tron, other.amount_micro_usdt)
    assert (await cashier.now(other)).state is State.SETTLED


async def test_a_round_sum_that_two_may_have_sent_waits_for_an_operator(cashier: Cashier, tron: FakeTron) -> None:
    """Who is asked for a few digits more and rounds them off must not pay for who was there first."""
    first, second = await cashier.begin(10), await cashier.begin(10)
    assert (first.amount_micro_usdt, second.amount_micro_usdt > TEN) == (TEN, True)
    await arrived(cashier, tron, TEN)
    assert {(await cashier.now(payment)).state for payment in (first, second)} == {State.PENDING}
    await arrived(cashier, tron, second.amount_micro_usdt)
    assert (await cashier.now(second)).state is State.SETTLED
    await arrived(cashier, tron, TEN)
    assert (await cashier.now(first)).state is State.SETTLED


async def test_another_round_sum_is_not_for_it(cashier: Cashier, tron: FakeTron) -> None:
    """A stranger's 15 USDT are no overpaid 10: without digits nothing but the sum names a payment."""
    payment = await cashier.begin(10)
    await arrived(cashier, tron, TEN + TEN // 2)
    assert ((await cashier.now(payment)).state, await cashier.balance()) == (State.PENDING, 0)


async def test_who_rounds_is_not_joined_by_a_round_payment_afterwards(cashier: Cashier) -> None:
    """A payment over a sum that is asked for already has digits, also when nobody's sum is round."""
    await cashier.begin(10)
    rounded = [await cashier.begin(10) for _ in range(2)]
    assert all(payment.amount_micro_usdt % 10_000 for payment in rounded)
