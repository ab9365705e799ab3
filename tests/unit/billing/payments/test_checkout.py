"""Stripe's side where no webhook comes: lost ones are made up for, and the library is loaded only when it is needed."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from chassis import db
from chassis.config import ConfigError, read
from chassis.errors import Code, TollbridgeError
from services.billing import config
from services.billing.accounts import Accounts
from services.billing.config import BillingConfig, StripeSection
from services.billing.payments.checkout import Checkout, StripeAccess
from services.billing.payments.desk import PaymentDesk
from services.billing.payments.parts import open_stripe
from services.billing.payments.payment import Payment, State
from tests.fakes.stripe import FakeStripe, fake_stripe

USD = 1_000_000_000


@pytest.fixture
def stripe() -> Iterator[FakeStripe]:
    """Stripe."""
    with fake_stripe() as running:
        yield running


def configured(stripe: FakeStripe, **changes: str) -> BillingConfig:
    """A configuration with Stripe."""
    fields = {"secret_key": stripe.secret_key, "webhook_secret": stripe.webhook_secret, "api_base": stripe.url}
    return dataclasses.replace(config.defaults(), stripe=StripeSection(**{**fields, **changes}))


class Auth:
    """Who was suspended, and for what; `down` refuses."""

    def __init__(self) -> None:
        self.suspended: list[tuple[str, str]] = []
        self.down = False

    async def suspend(self, customer_id: str, cause: str) -> None:
        if self.down:
            raise TollbridgeError(Code.UNAVAILABLE, "auth is down")
        self.suspended.append((customer_id, cause))


@pytest.fixture
def auth() -> Auth:
    """Auth."""
    return Auth()


def checkout_of(pool: db.Pool, desk: PaymentDesk, auth: Auth, current: Callable[[], BillingConfig]) -> Checkout:
    """Checkout with a configuration that may change."""
    access = StripeAccess(config=current, open_stripe=open_stripe)
    return Checkout(pool=pool, desk=desk, access=access, suspend=auth.suspend, log=structlog.get_logger())


@pytest.fixture
def checkout(pool: db.Pool, desk: PaymentDesk, auth: Auth, stripe: FakeStripe) -> Checkout:
    """Checkout with Stripe."""
    return checkout_of(pool, desk, auth, lambda: configured(stripe))


async def begun(checkout: Checkout, customer: str, request_id: str = "r") -> Payment:
    """A payment that has begun."""
    return await checkout.create(
        customer_id=customer, amount_nano_usd=5 * USD, request_id=request_id, return_url="http://localhost/"
    )


async def test_a_payment_whose_webhook_was_lost_is_settled_when_its_time_is_over(
    checkout: Checkout, customer: str, stripe: FakeStripe, desk: PaymentDesk, rows: Callable[..., Any]
):
    """The round asks Stripe itself: what was paid is credited, the rest expires."""
    paid, unpaid = await begun(checkout, customer, "paid"), await begun(checkout, customer, "unpaid")
    stripe.pay(str(paid.object_id))
    stripe.lapse(str(unpaid.object_id))
    await checkout.look()
    assert (await desk.find(paid.id)).state is State.PENDING  # its time is not over
    rows("UPDATE billing.payments SET check_at = now() WHERE id = ANY(%s)", [paid.id, unpaid.id])
    await checkout.look()
    assert (await desk.find(paid.id)).state is State.SETTLED
    assert (await desk.find(unpaid.id)).state is State.EXPIRED


async def test_a_payment_that_never_reached_stripe_expires(
    checkout: Checkout, customer: str, stripe: FakeStripe, desk: PaymentDesk, rows: Callable[..., Any]
):
    """A begun payment whose session could not be made is no open payment for ever."""
    stripe.down = True
    with pytest.raises(TollbridgeError) as refused:
        await begun(checkout, customer)
    assert refused.value.code is Code.UNAVAILABLE
    rows("UPDATE billing.payments SET check_at = now() WHERE customer_id = %s", customer)
    [(payment_id,)] = rows("SELECT id FROM billing.payments WHERE customer_id = %s", customer)
    await checkout.look()
    assert (await desk.find(payment_id)).state is State.EXPIRED


async def test_a_session_that_we_forgot_settles_its_payment(
    checkout: Checkout, customer: str, stripe: FakeStripe, desk: PaymentDesk, rows: Callable[..., Any]
):
    """Killed between making a session and noting it: the session itself says whose order it is."""
    payment = await begun(checkout, customer)
    rows("UPDATE billing.payments SET object_id = NULL, url = '' WHERE id = %s", payment.id)
    session = str(payment.object_id)
    stripe.pay(session)
    body = stripe.event("checkout.session.completed", session)
    await checkout.receive(body, stripe.signed(body))
    settled = await desk.find(payment.id)
    assert (settled.state, settled.object_id) == (State.SETTLED, session)


async def test_a_payment_that_stripe_refuses_has_failed(checkout: Checkout, customer: str, stripe: FakeStripe):
    """The customer is told, and asking for the same again says that it is over."""
    stripe.refuses = True
    for code in (Code.PROVIDER_REJECTED, Code.CONFLICT):
        with pytest.raises(TollbridgeError) as refused:
            await begun(checkout, customer)
        assert refused.value.code is code


async def test_a_round_that_stripe_cuts_short_is_made_up_for(
    checkout: Checkout, customer: str, stripe: FakeStripe, desk: PaymentDesk, rows: Callable[..., Any]
):
    """What could not be read is read again in some minutes, not in hours; a bank debit under way is left in peace."""
    payment, debit = await begun(checkout, customer, "card"), await begun(checkout, customer, "debit")
    stripe.pay(str(payment.object_id))
    stripe.pay(str(debit.object_id), paid=False)
    rows("UPDATE billing.payments SET check_at = now() WHERE id = ANY(%s)", [payment.id, debit.id])
    stripe.down = True
    with pytest.raises(TollbridgeError):
        await checkout.look()
    stripe.down = False
    rows(
        "UPDATE billing.payments SET check_at = check_at - interval '5 minutes' WHERE id = ANY(%s)",
        [payment.id, debit.id],
    )
    await checkout.look()
    assert (await desk.find(payment.id)).state is State.SETTLED
    assert (await desk.find(debit.id)).state is State.CONFIRMING
    [(hours,)] = rows("SELECT extract(hour FROM check_at - now()) FROM billing.payments WHERE id = %s", debit.id)
    assert hours == 5


async def paid(checkout: Checkout, customer: str, stripe: FakeStripe, request_id: str = "r") -> str:
    """The intent of a payment that is settled."""
    payment = await begun(checkout, customer, request_id)
    intent = stripe.pay(str(payment.object_id))
    await tell(checkout, stripe, "checkout.session.completed", str(payment.object_id))
    return intent


async def tell(checkout: Checkout, stripe: FakeStripe, kind: str, object_id: str) -> None:
    """Brings a webhook."""
    body = stripe.event(kind, object_id)
    await checkout.receive(body, stripe.signed(body))


async def test_a_won_dispute_is_told_once_and_moves_nothing(
    checkout: Checkout, customer: str, stripe: FakeStripe, auth: Auth, pool: db.Pool
):
    """The operator reads what to credit and whom to reinstate; a dispute that had taken nothing is no news."""
    intent = await paid(checkout, customer, stripe)
    dispute = stripe.dispute(intent, 200)
    await tell(checkout, stripe, "charge.dispute.created", dispute)
    assert auth.suspended == [(customer, f"reversal:{dispute}:200")]
    stripe.decide(dispute, "won")
    with structlog.testing.capture_logs() as told:
        for _ in range(2):
            await tell(checkout, stripe, "charge.dispute.closed", dispute)
        early = stripe.dispute(intent, 100, status="won")
        await tell(checkout, stripe, "charge.dispute.closed", early)
    assert len(auth.suspended) == 1
    [line] = told
    assert (line["event"], line["log_level"]) == ("payment_dispute_won", "error")
    assert (line["customer_id"], line["dispute_id"], line["taken_nano_usd"]) == (customer, dispute, 2 * USD)
    assert (await Accounts(pool=pool).read(customer)).posted_nano_usd == 3 * USD


async def test_refunds_and_disputes_that_no_webhook_told_take_their_money_back(
    checkout: Checkout, customer: str, stripe: FakeStripe, pool: db.Pool, monkeypatch: pytest.MonkeyPatch
):
    """Each once, however often they are listed, also when their webhook comes later; one that was won is told."""
    monkeypatch.setattr("services.billing.payments.checkout.REVERSALS_PAUSE_S", 0)
    intent = await paid(checkout, customer, stripe)
    for cents in (50, 50):
        charge = stripe.refund(intent, cents)
    dispute = stripe.dispute(intent, 150)
    stripe.dispute(intent, 30, status="warning_needs_response")
    stripe.refund("pi_of_another_shop", 70)
    for _ in range(2):
        await checkout.look()
        assert (await Accounts(pool=pool).read(customer)).posted_nano_usd == 2_500_000_000
    await tell(checkout, stripe, "charge.refunded", charge)
    stripe.decide(dispute, "won")
    with structlog.testing.capture_logs() as told:
        await checkout.look()
        await checkout.look()
    assert [line["event"] for line in told] == ["payment_dispute_won"]
    assert (await Accounts(pool=pool).read(customer)).posted_nano_usd == 2_500_000_000


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round lists what was taken back."""
    monkeypatch.setattr("services.billing.payments.checkout.REVERSALS_PAUSE_S", 0)


@pytest.mark.usefixtures("always_due")
async def test_who_is_found_by_a_list_is_suspended_when_auth_can_be_asked(
    checkout: Checkout, customer: str, stripe: FakeStripe, auth: Auth, pool: db.Pool
):
    """The money comes back first, of every refund; the next list makes up for the suspensions, each with its cause."""
    charge = stripe.refund(await paid(checkout, customer, stripe), 100)
    other = stripe.refund(await paid(checkout, customer, stripe, "other"), 200)
    auth.down = True
    await checkout.look()
    assert (await Accounts(pool=pool).read(customer)).posted_nano_usd == 7 * USD
    auth.down = False
    await checkout.look()
    assert sorted(auth.suspended) == sorted((customer, cause) for cause in causes((charge, 100), (other, 200)))


def causes(*taken: tuple[str, int]) -> list[str]:
    """What suspensions are for."""
    return [f"reversal:{object_id}:{cents}" for object_id, cents in taken]


async def test_more_refunds_than_a_page_are_all_read(
    checkout: Checkout, customer: str, stripe: FakeStripe, pool: db.Pool
):
    """The oldest of some hundred, too."""
    stripe.refund(await paid(checkout, customer, stripe), 100)
    for number in range(210):
        stripe.refund(f"pi_{number}", 1)
    await checkout.look()
    assert (await Accounts(pool=pool).read(customer)).posted_nano_usd == 4 * USD


async def test_a_changed_config_takes_effect_at_the_next_call(
    pool: db.Pool, desk: PaymentDesk, auth: Auth, customer: str, stripe: FakeStripe
):
    """A rotated key and webhook secret need no restart; without the section there is no such method."""
    current = [configured(stripe, secret_key="sk_test_wrong")]
    checkout = checkout_of(pool, desk, auth, lambda: current[0])
    with pytest.raises(TollbridgeError) as refused, structlog.testing.capture_logs() as told:
        await begun(checkout, customer)
    assert [line["reason"] for line in told] == ["AuthenticationError"]
    assert refused.value.code is Code.PAYMENT_METHOD_UNAVAILABLE
    current[0] = configured(stripe)
    assert (await begun(checkout, customer)).url
    current[0] = config.defaults()
    with pytest.raises(TollbridgeError) as gone:
        await begun(checkout, customer)
    assert gone.value.code is Code.PAYMENT_METHOD_UNAVAILABLE


async def test_the_operators_page_is_where_the_browser_returns_to(
    pool: db.Pool, desk: PaymentDesk, auth: Auth, customer: str, stripe: FakeStripe
):
    """`top_up_url` goes before edge's own address."""
    with_page = dataclasses.replace(configured(stripe), top_up_url="https://shop.example/billing")
    payment = await begun(checkout_of(pool, desk, auth, lambda: with_page), customer)
    assert stripe.sessions[str(payment.object_id)]["success_url"] == "https://shop.example/billing"


@pytest.mark.parametrize("secret", ['""', '"  "', '"${NOT_SET:-}"'])
def test_an_empty_webhook_secret_refuses_to_start(tmp_path: Path, secret: str):
    """It would accept anybody's webhook."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(f"billing:\n  stripe: {{secret_key: sk, webhook_secret: {secret}}}\n")
    with pytest.raises(ConfigError, match="webhook_secret"):
        config.parse(read(path), {})


def test_stripes_library_is_not_loaded_where_it_is_not_configured():
    """It takes the better part of a second, which every start would pay."""
    code = "import services.billing.parts, sys; sys.exit('stripe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
