"""One settled payment is one transfer; what goes back later is another, and never more than came."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from psycopg import errors

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.billing.accounts import Accounts
from services.billing.figures import Figures
from services.billing.holding.grants import Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.payments.desk import Arrival, PaymentDesk
from services.billing.payments.payment import MAX_OPEN, Method, State, check_amount
from services.billing.proof.reconcile import verify
from tests.unit.billing.payments.conftest import Begin

USD = 1_000_000_000
Rows = Callable[..., list[tuple[Any, ...]]]


def arrival(amount_nano_usd: int, event_id: str = "") -> Arrival:
    """Money for a payment."""
    return Arrival(amount_nano_usd=amount_nano_usd, object_id=f"cs_{uuid4()}", event_id=event_id or f"evt_{uuid4()}")


async def test_many_arrivals_at_once_credit_once(
    pool: db.Pool, desk: PaymentDesk, begin: Begin, customer: str, rows: Rows
):
    """Ten replicas that hear of the same payment make one transfer through the clearing account."""
    payment = await begin(10 * USD)
    settled = await asyncio.gather(*(desk.settle(payment.id, arrival(10 * USD)) for _ in range(10)))
    assert {each.state for each in settled} == {State.SETTLED}
    account = await Accounts(pool=pool).read(customer)
    assert account.posted_nano_usd == 10 * USD
    found = rows("SELECT debit, amount, event_id FROM billing.transfers WHERE customer_id = %s", customer)
    assert found == [("clearing:stripe", 10 * USD, f"payment:{payment.id}")]


async def test_an_event_or_object_settles_one_payment_only(desk: PaymentDesk, begin: Begin):
    """The database itself refuses to credit two payments for one session or one event."""
    first, second = await begin(USD), await begin(USD)
    once = arrival(USD)
    await desk.settle(first.id, once)
    with pytest.raises(psycopg.IntegrityError):
        await desk.settle(second.id, once)
    assert (await desk.find(second.id)).state is State.PENDING


async def test_the_same_request_begins_the_same_payment(begin: Begin):
    """A repeated call finds it; another amount or method under its key is refused."""
    first = await begin(USD, request_id="again")
    assert (await begin(USD, request_id="again")).id == first.id
    for changes in ({"amount_nano_usd": 2 * USD}, {"amount_nano_usd": USD, "method": Method.CRYPTO}):
        with pytest.raises(TollbridgeError) as refused:
            await begin(**changes, request_id="again")
        assert refused.value.code is Code.IDEMPOTENCY_MISMATCH


async def test_unpaid_payments_are_bounded(begin: Begin):
    """Nobody fills the table, or the amounts that can be told apart, with payments they don't pay."""
    for _ in range(MAX_OPEN):
        await begin(USD)
    with pytest.raises(TollbridgeError) as refused:
        await begin(USD)
    assert refused.value.code is Code.RATE_LIMIT_EXCEEDED


async def test_what_is_gone_back_takes_what_is_there_and_the_rest_is_bad_debt(
    pool: db.Pool, desk: PaymentDesk, begin: Begin, customer: str, rows: Rows
):
    """Held money stays held, the balance never falls below it, and the loss is booked where everybody can read it."""
    payment = await begin(10 * USD)
    await desk.settle(payment.id, arrival(10 * USD))
    grants = Grants(pool=pool, figures=Figures(registry=CollectorRegistry()), lease_lives_s=40)
    ask = Ask(hold_id=uuid4(), customer_id=customer, kind=HoldKind.LEASE, spender="s", amount_nano_usd=4 * USD)
    await grants.grant(ask)
    assert await desk.reverse(payment.id, object_id="ch_1", total_nano_usd=10 * USD)
    assert (await desk.find(payment.id)).reversed_nano_usd == 10 * USD
    account = await Accounts(pool=pool).read(customer)
    assert (account.posted_nano_usd, account.held_nano_usd) == (4 * USD, 4 * USD)
    found = rows("SELECT debit, credit, amount FROM billing.transfers WHERE kind = 'reversal' ORDER BY leg")
    assert found == [
        (f"credits:{customer}", "clearing:stripe", 6 * USD),
        ("bad_debt", "clearing:stripe", 4 * USD),
    ]


async def test_reversals_are_counted_by_what_they_amount_to_in_all(
    pool: db.Pool, desk: PaymentDesk, begin: Begin, customer: str
):
    """Repeated, older and concurrent news of refunds and disputes take each part once, and never more than came in."""
    payment = await begin(10 * USD)
    await desk.settle(payment.id, arrival(10 * USD))
    news = [("ch_a", 2), ("ch_a", 2), ("ch_a", 5), ("ch_a", 2), ("dp_b", 3)]
    await asyncio.gather(*(desk.reverse(payment.id, object_id=name, total_nano_usd=usd * USD) for name, usd in news))
    assert (await Accounts(pool=pool).read(customer)).posted_nano_usd == 2 * USD
    await desk.reverse(payment.id, object_id="dp_c", total_nano_usd=10 * USD)
    assert (await desk.find(payment.id)).reversed_nano_usd == 10 * USD
    assert (await Accounts(pool=pool).read(customer)).posted_nano_usd == 0


async def test_a_reversal_is_news_only_as_long_as_it_may_be_told_again(desk: PaymentDesk, begin: Begin, rows: Rows):
    """A dispute that is closed months later suspends nobody who was reinstated; one that grows does."""
    payment = await begin(10 * USD)
    await desk.settle(payment.id, arrival(10 * USD))
    for _ in range(2):
        assert await desk.reverse(payment.id, object_id="dp_old", total_nano_usd=3 * USD)
    rows("UPDATE billing.payment_reversals SET changed_at = now() - interval '5 days' WHERE object_id = 'dp_old'")
    assert not await desk.reverse(payment.id, object_id="dp_old", total_nano_usd=3 * USD)
    assert await desk.reverse(payment.id, object_id="dp_old", total_nano_usd=4 * USD)


async def test_a_settled_payment_stays_settled(desk: PaymentDesk, begin: Begin):
    """News that come late, of an expiry or a failure, change nothing."""
    payment = await begin(USD)
    await desk.settle(payment.id, arrival(USD))
    for state in (State.EXPIRED, State.FAILED, State.CONFIRMING):
        assert (await desk.move(payment.id, state)).state is State.SETTLED


async def test_another_customers_payment_is_not_found(desk: PaymentDesk, begin: Begin):
    """Nobody learns that it exists."""
    payment = await begin(USD)
    with pytest.raises(TollbridgeError) as refused:
        await desk.find(payment.id, customer_id="somebody-else")
    assert refused.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("amount_nano_usd", [0, -USD, USD // 2 - 10_000_000, USD + 1, 100_001 * USD])
def test_amounts_are_whole_cents_within_bounds(amount_nano_usd: int):
    """What a card can't be charged is refused before anybody is asked."""
    with pytest.raises(TollbridgeError) as refused:
        check_amount(amount_nano_usd)
    assert refused.value.details == {"param": "amount_usd"}


async def test_the_service_may_not_delete_payments(payments_url: str):
    """What was paid stays on record: the role lacks the right."""
    with (
        psycopg.connect(payments_url, options="-c role=tollbridge_billing") as connection,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        connection.execute("DELETE FROM billing.payments")


async def test_a_payment_that_does_not_agree_with_its_transfers_is_found(
    desk: PaymentDesk, begin: Begin, payments_url: str, rows: Rows
):
    """`ledger verify` compares what payments say was credited and taken back with the transfers."""
    payment = await begin(3 * USD)
    await desk.settle(payment.id, arrival(3 * USD))
    rows("UPDATE billing.payments SET credited = credited + 1 WHERE id = %s", payment.id)
    found = next(each for each in verify(payments_url).checks if each.name == "payments_are_transfers")
    assert found.examples == [f"payment:{payment.id}"]
    rows("UPDATE billing.payments SET credited = credited - 1 WHERE id = %s", payment.id)
