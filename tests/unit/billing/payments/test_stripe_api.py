"""Webhooks as Stripe's library checks them: whatever else anybody sends is refused, and never an error of ours."""

import json
from collections.abc import Callable

import pytest

from chassis.errors import Code, TollbridgeError
from services.billing.config import StripeSection
from services.billing.payments.stripe_api import Stripe
from tests.fakes.stripe import FakeStripe

SIGNER = FakeStripe(secret_key="sk_test_canary", webhook_secret="whsec_canary")
BODY = SIGNER.event("charge.refunded", "ch_1")


@pytest.fixture(scope="module")
def stripe() -> Stripe:
    """An account."""
    return Stripe(StripeSection(secret_key=SIGNER.secret_key, webhook_secret=SIGNER.webhook_secret))


@pytest.mark.parametrize(
    ("body", "sign"),
    [
        (BODY, lambda: ""),
        (BODY, lambda: "t=1,v1"),
        (BODY, lambda: "t=99999999999,v1=é"),
        (BODY, lambda: SIGNER.signed(BODY, at=1.0)),
        (BODY, lambda: SIGNER.signed(BODY, secrets=("whsec_other",))),
        (BODY + b" ", lambda: SIGNER.signed(BODY)),
        (b"\xff", lambda: SIGNER.signed(b"\xff")),
        (b"{}", lambda: SIGNER.signed(b"{}")),
    ],
    ids=["none", "cut", "not ASCII", "too old", "another's", "another body", "not UTF-8", "no event"],
)
def test_what_stripe_did_not_sign_is_an_invalid_request(stripe: Stripe, body: bytes, sign: Callable[[], str]):
    """No signature, a torn one, one that is no ASCII, an old one, another secret's, another body's, no event."""
    with pytest.raises(TollbridgeError) as refused:
        stripe.event(body, sign())
    assert refused.value.code is Code.INVALID_REQUEST


def test_one_of_several_signatures_is_enough(stripe: Stripe):
    """While a secret is rolled, Stripe signs with both."""
    event = stripe.event(BODY, SIGNER.signed(BODY, secrets=("whsec_old", SIGNER.webhook_secret)))
    assert (event.type, event.object_id) == ("charge.refunded", "ch_1")


def test_an_event_about_something_without_an_id_is_taken(stripe: Stripe):
    """Such as `balance.available`: refused, it would be sent for days, and the endpoint switched off."""
    body = json.dumps({"id": "evt_1", "type": "balance.available", "data": {"object": {"object": "balance"}}}).encode()
    assert stripe.event(body, SIGNER.signed(body)).object_id == ""
