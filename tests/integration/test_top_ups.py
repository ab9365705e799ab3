"""A customer pays by card: the money is there once, however often Stripe says so; what goes back is taken back."""

import concurrent.futures
import os
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.stripe import FakeStripe, fake_stripe
from tests.fakes.tron import SHOP, FakeTron, fake_tron
from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, gateway, wait_until

BILLING = """
billing:
  default_plan: enterprise
  stripe: {secret_key: "${STRIPE_SECRET_KEY}", webhook_secret: "${STRIPE_WEBHOOK_SECRET}", api_base: "%(stripe)s"}
  crypto: {network: TRC-20, watcher: tron, address: %(shop)s, confirmations: 3, api_base: "%(tron)s", poll_seconds: 600}
"""


@pytest.fixture(scope="module")
def stripe() -> Iterator[FakeStripe]:
    """Stripe."""
    with fake_stripe() as running:
        yield running


@pytest.fixture(scope="module")
def tron() -> Iterator[FakeTron]:
    """The chain."""
    with fake_tron() as running:
        yield running


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, stripe: FakeStripe, tron: FakeTron) -> Iterator[Gateway]:
    """A gateway that sells by card and for USDT, with two billing replicas."""
    directory: Path = tmp_path_factory.mktemp("shop")
    billing = BILLING % {"stripe": stripe.url, "tron": tron.url, "shop": SHOP}
    config = CONFIG.partition("\nbilling:")[0] % {"provider": "http://127.0.0.1:9"} + billing
    secrets = {"STRIPE_SECRET_KEY": stripe.secret_key, "STRIPE_WEBHOOK_SECRET": stripe.webhook_secret}
    with gateway(directory, config, "--replicas", "billing=2", **secrets) as running:
        yield running
        log = running.log_path.read_text() + "".join(
            path.read_text(errors="replace") for path in running.data_dir.rglob("*.log")
        )
        assert not [secret for secret in secrets.values() if secret in log]


@pytest.fixture
def account(shop: Gateway) -> Account:
    """A customer without money."""
    return shop.customer(credit_usd="0")


def post(account: Account, path: str, body: Any, **headers: str) -> httpx.Response:
    """A POST below /v1."""
    url = f"{account.gateway.base_url}/v1{path}"
    return httpx.post(url, json=body, headers=account.headers | headers, timeout=20)


def begin(account: Account, amount_usd: Any = "25.50") -> dict[str, Any]:
    """Begins a payment."""
    reply = post(account, "/billing/checkout", {"amount_usd": amount_usd})
    assert reply.status_code == 200, reply.text
    begun: dict[str, Any] = reply.json()
    assert set(begun) == {"payment_id", "url", "expires_at"}
    return begun


def paid(account: Account, stripe: FakeStripe, amount_usd: str) -> tuple[str, str]:
    """A settled payment: its id and intent."""
    begun = begin(account, amount_usd)
    session = stripe.session_of(begun["url"])
    intent = stripe.pay(session)
    assert stripe.tell(account.gateway.base_url, "checkout.session.completed", session).status_code == 200
    return begun["payment_id"], intent


def payment(account: Account, payment_id: str) -> dict[str, Any]:
    """The payment as its customer sees it."""
    found: dict[str, Any] = account.get(f"/billing/payments/{payment_id}")
    return found


def status(account: Account) -> str:
    """Whether the customer is active."""
    return str(account.gateway.admin("GET", f"/admin/customers/{account.customer_id}")["status"])


def balance(account: Account) -> Decimal:
    """As the operator sees it, who also sees suspended customers."""
    return Decimal(account.gateway.admin("GET", f"/admin/customers/{account.customer_id}")["balance"])


def test_a_card_payment_is_credited_when_stripe_says_that_it_is_paid(account: Account, stripe: FakeStripe) -> None:
    """From the first call to the balance; before it is paid there is nothing."""
    begun = begin(account)
    session = stripe.session_of(begun["url"])
    assert stripe.sessions[session]["client_reference_id"] == begun["payment_id"]
    assert stripe.sessions[session]["amount_total"] == 2550
    pending = payment(account, begun["payment_id"])
    assert (pending["method"], pending["status"], pending["credited_usd"]) == ("stripe", "pending", "0.000000000")
    assert stripe.tell(account.gateway.base_url, "checkout.session.completed", session).status_code == 200
    assert balance(account) == 0
    stripe.pay(session)
    assert stripe.tell(account.gateway.base_url, "checkout.session.completed", session).status_code == 200
    settled = payment(account, begun["payment_id"])
    assert (settled["status"], settled["amount_usd"], settled["credited_usd"]) == (
        "settled",
        "25.500000000",
        "25.500000000",
    )
    assert account.credits()["balance"] == Decimal("25.5")


def test_webhooks_that_come_twice_at_once_or_in_another_order_credit_once(account: Account, stripe: FakeStripe) -> None:
    """Twelve deliveries of three events over two replicas, all at once, are one transfer."""
    begun = begin(account, 10)
    session = stripe.session_of(begun["url"])
    stripe.pay(session)
    kinds = ["checkout.session.completed", "checkout.session.async_payment_succeeded", "checkout.session.expired"]
    bodies = [stripe.event(kind, session) for kind in kinds] * 4
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda body: stripe.send(account.gateway.base_url, body), bodies))
    assert {reply.status_code for reply in replies} == {200}
    assert account.credits()["balance"] == 10
    assert payment(account, begun["payment_id"])["status"] == "settled"


def test_the_webhook_itself_is_never_believed(account: Account, stripe: FakeStripe) -> None:
    """Amount, currency and order come from the API: a signed event that claims more credits nothing more."""
    begun = begin(account, "5")
    session = stripe.session_of(begun["url"])
    claims = {"payment_status": "paid", "status": "complete", "amount_total": 999_999, "currency": "usd"}
    body = stripe.event("checkout.session.completed", session, **claims)
    assert stripe.send(account.gateway.base_url, body).status_code == 200
    assert balance(account) == 0
    stripe.pay(session)
    assert stripe.send(account.gateway.base_url, body).status_code == 200
    assert balance(account) == 5


@pytest.mark.parametrize("changes", [{"amount_total": 100_000}, {"amount_total": 100}, {"currency": "eur"}])
def test_another_amount_or_currency_than_was_asked_is_left_to_the_operator(
    account: Account, stripe: FakeStripe, changes: dict[str, Any]
) -> None:
    """It is noted, and not credited."""
    begun = begin(account, "5")
    session = stripe.session_of(begun["url"])
    stripe.pay(session, **changes)
    assert stripe.tell(account.gateway.base_url, "checkout.session.completed", session).status_code == 200
    found = payment(account, begun["payment_id"])
    assert (found["status"], found["note"], balance(account)) == ("failed", "amount_mismatch", 0)


def test_an_order_that_is_not_ours_credits_nobody(account: Account, stripe: FakeStripe) -> None:
    """A paid session that names another session's payment, or none, is somebody else's business."""
    begun = begin(account, "5")
    genuine = stripe.session_of(begun["url"])
    for order in (begun["payment_id"], "not-ours", None):
        copied = f"cs_test_copy{time.time_ns()}"
        stripe.sessions[copied] = stripe.sessions[genuine] | {"id": copied, "client_reference_id": order}
        stripe.pay(copied)
        assert stripe.tell(account.gateway.base_url, "checkout.session.completed", copied).status_code == 200
    assert balance(account) == 0


def test_a_bank_debit_waits_for_its_money(account: Account, stripe: FakeStripe) -> None:
    """Completed without being paid is confirming; then it succeeds, or fails."""
    for kind, pays, expected in (
        ("checkout.session.async_payment_succeeded", True, "settled"),
        ("checkout.session.async_payment_failed", False, "failed"),
    ):
        begun = begin(account, "7")
        session = stripe.session_of(begun["url"])
        stripe.pay(session, paid=False)
        assert stripe.tell(account.gateway.base_url, "checkout.session.completed", session).status_code == 200
        assert payment(account, begun["payment_id"])["status"] == "confirming"
        stripe.pay(session, paid=pays)
        assert stripe.tell(account.gateway.base_url, kind, session).status_code == 200
        assert payment(account, begun["payment_id"])["status"] == expected
    assert balance(account) == 7


def test_an_unpaid_session_expires(account: Account, stripe: FakeStripe) -> None:
    """And is then shown so."""
    begun = begin(account)
    session = stripe.session_of(begun["url"])
    stripe.lapse(session)
    assert stripe.tell(account.gateway.base_url, "checkout.session.expired", session).status_code == 200
    assert payment(account, begun["payment_id"])["status"] == "expired"


@pytest.mark.parametrize("way", ["other secret", "old", "changed body", "none", "junk", "other scheme"])
def test_a_webhook_that_stripe_did_not_sign_is_refused(account: Account, stripe: FakeStripe, way: str) -> None:
    """400, and nothing happens."""
    session = stripe.session_of(begin(account)["url"])
    stripe.pay(session)
    body = stripe.event("checkout.session.completed", session)
    signature = {
        "other secret": stripe.signed(body, secrets=("whsec_other",)),
        "old": stripe.signed(body, at=time.time() - 301),
        "changed body": stripe.signed(body + b" "),
        "none": "",
        "junk": "t=,v1=;;",
        "other scheme": stripe.signed(body).replace("v1=", "v2="),
    }[way]
    refused = stripe.send(account.gateway.base_url, body, signature)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert balance(account) == 0


def test_any_of_several_signatures_is_enough(account: Account, stripe: FakeStripe) -> None:
    """While a secret is rolled, Stripe signs with both; and a webhook may be up to five minutes old."""
    session = stripe.session_of(begin(account, "3")["url"])
    stripe.pay(session)
    body = stripe.event("checkout.session.completed", session)
    secrets = ("whsec_old", stripe.webhook_secret)
    signature = stripe.signed(body, at=time.time() - 250, secrets=secrets)
    assert stripe.send(account.gateway.base_url, body, signature).status_code == 200
    assert balance(account) == 3


def test_a_refund_is_taken_back_once_and_suspends(account: Account, stripe: FakeStripe) -> None:
    """Two partial refunds, each told twice, take their sum; the customer is suspended, and reinstated stays so."""
    _, intent = paid(account, stripe, "20")
    charge = stripe.refund(intent, 500)
    body = stripe.event("charge.refunded", charge)
    for _ in range(2):
        assert stripe.send(account.gateway.base_url, body).status_code == 200
    assert (balance(account), status(account)) == (15, "suspended")
    account.gateway.admin("PATCH", f"/admin/customers/{account.customer_id}", status="active")
    assert stripe.send(account.gateway.base_url, body).status_code == 200
    assert (balance(account), status(account)) == (15, "active")
    stripe.refund(intent, 700)
    assert stripe.tell(account.gateway.base_url, "charge.refunded", charge).status_code == 200
    assert (balance(account), status(account)) == (8, "suspended")


def test_a_dispute_beyond_the_balance_is_bad_debt(account: Account, stripe: FakeStripe) -> None:
    """The customer doesn't go below zero, and the rest of the loss is booked."""
    payment_id, intent = paid(account, stripe, "20")
    path = f"/admin/customers/{account.customer_id}/credits"
    account.gateway.admin("POST", path, amount_usd="-12", reason="spent")
    before = account.gateway.verify()["house_nano_usd"].get("bad_debt", 0)
    inquiry = stripe.dispute(intent, 2000, status="warning_needs_response")
    assert stripe.tell(account.gateway.base_url, "charge.dispute.created", inquiry).status_code == 200
    assert (balance(account), status(account)) == (8, "active")
    dispute = stripe.dispute(intent, 2000)
    assert stripe.tell(account.gateway.base_url, "charge.dispute.created", dispute).status_code == 200
    assert (balance(account), status(account)) == (0, "suspended")
    assert account.gateway.verify()["house_nano_usd"]["bad_debt"] - before == -12 * 10**9
    account.gateway.admin("PATCH", f"/admin/customers/{account.customer_id}", status="active")
    assert payment(account, payment_id)["reversed_usd"] == "20.000000000"


def test_a_refund_that_is_told_before_the_payment_finds_both(account: Account, stripe: FakeStripe) -> None:
    """The payment is credited from the API first, and then taken back."""
    begun = begin(account, "9")
    session = stripe.session_of(begun["url"])
    charge = stripe.refund(stripe.pay(session), 900)
    assert stripe.tell(account.gateway.base_url, "charge.refunded", charge).status_code == 200
    assert (balance(account), status(account)) == (0, "suspended")
    assert stripe.tell(account.gateway.base_url, "checkout.session.completed", session).status_code == 200
    assert balance(account) == 0


def test_a_suspension_that_cant_be_made_now_is_made_when_the_webhook_comes_again(
    account: Account, stripe: FakeStripe
) -> None:
    """With auth out of reach Stripe is told of a failure, and its repetition suspends; the money went back once."""
    _, intent = paid(account, stripe, "10")
    body = stripe.event("charge.refunded", stripe.refund(intent, 400))
    auth = account.gateway.pid("auth")
    os.kill(auth, signal.SIGSTOP)
    try:
        assert stripe.send(account.gateway.base_url, body).status_code in {503, 504}
    finally:
        os.kill(auth, signal.SIGCONT)  # what was asked of it meanwhile it may still do
    assert stripe.send(account.gateway.base_url, body).status_code == 200
    assert (balance(account), status(account)) == (6, "suspended")


def test_a_webhook_that_cant_be_served_now_comes_again(account: Account, stripe: FakeStripe) -> None:
    """503 while Stripe's API is down, so that Stripe repeats it; beginning a payment says the same."""
    session = stripe.session_of(begin(account, "4")["url"])
    stripe.pay(session)
    body = stripe.event("checkout.session.completed", session)
    stripe.down = True
    try:
        assert stripe.send(account.gateway.base_url, body).status_code == 503
        again = {"idempotency-key": "retried"}
        assert post(account, "/billing/checkout", {"amount_usd": 6}, **again).status_code == 503
    finally:
        stripe.down = False
    assert stripe.send(account.gateway.base_url, body).status_code == 200
    assert balance(account) == 4
    begun = [post(account, "/billing/checkout", {"amount_usd": 6}, **again).json() for _ in range(2)]
    assert begun[0] == begun[1]
    assert begun[0]["url"]
    assert post(account, "/billing/checkout", {"amount_usd": 7}, **again).status_code == 422


def test_a_payment_in_usdt_is_credited_when_the_chain_has_settled_it(account: Account, tron: FakeTron) -> None:
    """The call says what to send where; the webhook, which anybody may send, only makes us look."""
    reply = post(account, "/billing/crypto/create-payment", {"amount_usd": "12.34"})
    assert reply.status_code == 200, reply.text
    begun = reply.json()
    fixed = {name: begun[name] for name in ("address", "network", "currency", "amount_usd")}
    assert fixed == {"address": SHOP, "network": "TRC-20", "currency": "USDT", "amount_usd": "12.340000000"}
    amount = Decimal(begun["amount"])
    assert 0 < amount - Decimal("12.34") < Decimal("0.01")
    tron.send(int(amount * 1_000_000))

    def look(status: str) -> Any:
        forged = {"payment_id": begun["payment_id"], "status": "settled", "amount": "1000000"}
        assert httpx.post(f"{account.gateway.base_url}/webhooks/crypto", json=forged).status_code == 200
        return payment(account, begun["payment_id"])["status"] == status

    wait_until(lambda: look("confirming"), timeout_s=15, what="the transfer is seen")
    assert balance(account) == 0
    tron.mine(3)
    wait_until(lambda: look("settled"), timeout_s=15, what="the transfer is settled")
    assert balance(account) == amount
    assert payment(account, begun["payment_id"])["method"] == "crypto"


def test_a_payment_is_its_customers_own(account: Account, shop: Gateway) -> None:
    """Others get 404, as for one that is not there."""
    begun = begin(account)
    other = shop.customer(credit_usd="0")
    for payment_id in (begun["payment_id"], "junk", "00000000-0000-7000-8000-000000000000"):
        reply = httpx.get(f"{shop.base_url}/v1/billing/payments/{payment_id}", headers=other.headers)
        assert reply.status_code == 404


@pytest.mark.parametrize("amount_usd", [0, -5, "0.49", "5.001", "1000000", "five", None])
def test_an_amount_that_cant_be_paid_is_a_400(account: Account, amount_usd: Any) -> None:
    """With the field named."""
    for path in ("/billing/checkout", "/billing/crypto/create-payment"):
        refused = post(account, path, {"amount_usd": amount_usd})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "amount_usd"), refused.text


def test_a_method_that_is_not_configured_says_so(system: Gateway) -> None:
    """503 `payment_method_unavailable`, for customers and for webhooks."""
    account = system.customer(credit_usd="0")
    for path in ("/billing/checkout", "/billing/crypto/create-payment"):
        refused = post(account, path, {"amount_usd": "5"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "payment_method_unavailable")
    for provider in ("stripe", "crypto"):
        reply = httpx.post(f"{system.base_url}/webhooks/{provider}", json={})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "payment_method_unavailable")


def test_an_operators_credit_is_given_once_per_idempotency_key(account: Account, shop: Gateway) -> None:
    """Ten calls over two replicas, all at once, are one transfer; another amount under the key is 422."""
    url = f"{shop.base_url}/admin/customers/{account.customer_id}/credits"
    headers = {"authorization": f"Bearer {shop.ready['admin_token']}", "idempotency-key": f"gift-{account.customer_id}"}

    def give(amount_usd: str) -> httpx.Response:
        body = {"amount_usd": amount_usd, "reason": "gift"}
        return httpx.post(url, json=body, headers=headers, timeout=20)

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(give, ["2.50"] * 10))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["transfer_id"] for reply in replies}) == 1
    assert balance(account) == Decimal("2.5")
    assert give("2.51").status_code == 422


def test_the_books_are_clean(shop: Gateway) -> None:
    """After all of this."""
    wait_until(lambda: shop.verify()["clean"], timeout_s=10, what="clean books")
