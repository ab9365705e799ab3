"""Stripe by its official library: its asynchronous client, every call within ten seconds, retried by the library.

Importing this imports the library; whoever does so at run time does it off the event loop.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar
from uuid import UUID

import msgspec
import stripe
from stripe.checkout import Session as CheckoutSession
from stripe.params import DisputeListParams, RefundListParams

from chassis.errors import Code, TollbridgeError
from services.billing.config import StripeSection
from services.billing.payments.payment import Method, unavailable
from services.billing.payments.stripe_port import Session, StripeEvent, TakenBack

T = TypeVar("T")
TOLERANCE_S = 300
CALL_TIMEOUT_S = 4.0
TOTAL_TIMEOUT_S = 10.0
MAX_RETRIES = 1
PAGE = 100
MAX_PAGES = 10
_WON = {"won", "prevented"}
"""A dispute in one of these states has taken nothing in the end."""


class _Object(msgspec.Struct, frozen=True):
    id: str = ""


class _Data(msgspec.Struct, frozen=True):
    object: _Object


class _Event(msgspec.Struct, frozen=True):
    id: str
    type: str
    data: _Data


class Stripe:
    """One account at Stripe, with the secrets of one configuration."""

    def __init__(self, section: StripeSection) -> None:
        self._secret = section.webhook_secret
        self._client = stripe.StripeClient(
            section.secret_key,
            base_addresses={"api": section.api_base.rstrip("/")},
            http_client=stripe.HTTPXClient(timeout=CALL_TIMEOUT_S),
            max_network_retries=MAX_RETRIES,
        )

    def event(self, body: bytes, signature: str) -> StripeEvent:
        """See StripeApi. The library compares every v1 signature of the header, so that secrets can be rolled."""
        try:
            stripe.WebhookSignature.verify_header(body, signature, self._secret, TOLERANCE_S)
            found = msgspec.json.decode(body, type=_Event)
        except (stripe.SignatureVerificationError, msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
            # a TypeError is the comparison's, of a signature that is no ASCII;
            # neither the body nor the header is repeated: this message goes to whoever sent them
            raise TollbridgeError(Code.INVALID_REQUEST, "The webhook's signature or body is not valid.") from error
        return StripeEvent(id=found.id, type=found.type, object_id=found.data.object.id)

    async def create_session(
        self, *, payment_id: UUID, customer_id: str, amount_cents: int, return_url: str, expires_at_us: int
    ) -> Session:
        """See StripeApi. The payment's id is the order, and the key that makes a repeated call the same session."""
        made = await _asked(
            self._client.v1.checkout.sessions.create_async(
                {
                    "mode": "payment",
                    "client_reference_id": str(payment_id),
                    "metadata": {"payment_id": str(payment_id), "customer_id": customer_id},
                    "payment_intent_data": {"metadata": {"payment_id": str(payment_id)}},
                    "line_items": [
                        {
                            "quantity": 1,
                            "price_data": {
                                "currency": "usd",
                                "unit_amount": amount_cents,
                                "product_data": {"name": "API credit"},
                            },
                        }
                    ],
                    "success_url": return_url,
                    "cancel_url": return_url,
                    "expires_at": expires_at_us // 1_000_000,
                },
                {"idempotency_key": f"tollbridge-{payment_id}"},
            )
        )
        if made is None:
            raise TollbridgeError(Code.UNAVAILABLE, "The payment provider can't be reached.", retry_after_s=5)
        return _session(made)

    async def session(self, session_id: str) -> Session | None:
        """See StripeApi."""
        found = await _asked(self._client.v1.checkout.sessions.retrieve_async(session_id))
        return _session(found) if found is not None else None

    async def session_of_intent(self, intent_id: str) -> Session | None:
        """See StripeApi."""
        page = await _asked(
            self._client.v1.checkout.sessions.list_async({"payment_intent": intent_id, "limit": 1}),
        )
        return _session(page.data[0]) if page is not None and page.data else None

    async def refunded(self, charge_id: str) -> TakenBack | None:
        """See StripeApi."""
        charge = await _asked(self._client.v1.charges.retrieve_async(charge_id))
        return _refunded(charge) if charge is not None else None

    async def disputed(self, dispute_id: str) -> TakenBack | None:
        """See StripeApi."""
        dispute = await _asked(self._client.v1.disputes.retrieve_async(dispute_id))
        return _disputed(dispute) if dispute is not None else None

    async def taken_back(self, *, since_us: int) -> Sequence[TakenBack]:
        """See StripeApi. A charge that was refunded several times is there once."""
        since_s = since_us // 1_000_000
        charges: dict[str, TakenBack] = {}
        refunds: RefundListParams = {"created": {"gte": since_s}, "limit": PAGE, "expand": ["data.charge"]}
        for _ in range(MAX_PAGES):
            listed = await _asked(self._client.v1.refunds.list_async(refunds))
            for refund in listed.data if listed is not None else ():
                if isinstance(refund.charge, stripe.Charge):
                    charges[refund.charge.id] = _refunded(refund.charge)
            if listed is None or not listed.has_more or not listed.data:
                break
            refunds["starting_after"] = listed.data[-1].id
        disputes: list[TakenBack | None] = []
        asked: DisputeListParams = {"created": {"gte": since_s}, "limit": PAGE}
        for _ in range(MAX_PAGES):
            page = await _asked(self._client.v1.disputes.list_async(asked))
            disputes += [_disputed(dispute) for dispute in (page.data if page is not None else ())]
            if page is None or not page.has_more or not page.data:
                break
            asked["starting_after"] = page.data[-1].id
        return [*charges.values(), *(dispute for dispute in disputes if dispute is not None)]


async def _asked(call: Awaitable[T]) -> T | None:
    """The answer, None when Stripe knows no such object."""
    try:
        async with asyncio.timeout(TOTAL_TIMEOUT_S):
            return await call
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise unavailable(Method.STRIPE) from error
    except stripe.InvalidRequestError as error:
        if error.http_status == 404:
            return None
        raise TollbridgeError(Code.PROVIDER_REJECTED, "The payment provider refused this payment.") from error
    except (stripe.StripeError, TimeoutError) as error:
        message = "The payment provider can't be reached."
        raise TollbridgeError(Code.UNAVAILABLE, message, retry_after_s=5) from error


def _session(found: CheckoutSession) -> Session:
    return Session(
        id=found.id,
        order=found.client_reference_id or "",
        url=found.url or "",
        status=found.status or "",
        is_paid=found.payment_status == "paid",
        amount_cents=found.amount_total or 0,
        currency=found.currency or "",
        intent_id=_id(found.payment_intent),
        expires_at_us=found.expires_at * 1_000_000,
    )


def _refunded(charge: stripe.Charge) -> TakenBack:
    return TakenBack(
        object_id=charge.id,
        intent_id=_id(charge.payment_intent),
        amount_cents=charge.amount_refunded,
        currency=charge.currency,
    )


def _disputed(dispute: stripe.Dispute) -> TakenBack | None:
    if dispute.status.startswith("warning_"):  # an inquiry takes nothing
        return None
    return TakenBack(
        object_id=dispute.id,
        intent_id=_id(dispute.payment_intent),
        amount_cents=dispute.amount,
        currency=dispute.currency,
        is_won=dispute.status in _WON,
    )


def _id(reference: object) -> str | None:
    """The id of what may be an id, an expanded object or nothing."""
    if reference is None or isinstance(reference, str):
        return reference
    return str(getattr(reference, "id", "")) or None
