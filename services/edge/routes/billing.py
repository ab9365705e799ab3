"""`/billing/…`: a customer begins payments and sees what became of them. Billing and its providers do the rest."""

from decimal import Decimal
from typing import Annotated, Literal, TypedDict

import msgspec
from fastapi import APIRouter, Request, Response
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.http.json_http import Identify, amount, answer, context, decode, link, rfc3339, to_the_second
from services.edge.openapi.description import IDEMPOTENCY_KEY, TIME, USD, Description, described
from services.edge.routes.keys import call_id
from tollbridge.billing.v1 import payments_pb2

TIMEOUT_S = 2.0
BEGIN_TIMEOUT_S = 15.0
"""Beginning a payment asks its provider."""
_NAMED = "pay_"


class PaymentBody(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a payment by card."""

    amount_usd: Decimal


class CryptoPaymentBody(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a payment in USDT: in dollars or in cents."""

    amount_usd: Decimal | None = None
    amount_cents: Annotated[int, Meta(ge=50, le=10_000_000)] | None = None

    def nano_usd(self) -> int:
        """What is asked for; raises INVALID_REQUEST unless it is said once."""
        if self.amount_cents is not None and self.amount_usd is None:
            return amount(Decimal(self.amount_cents) / 100, param="amount_cents")
        if self.amount_usd is not None and self.amount_cents is None:
            return amount(self.amount_usd, param="amount_usd")
        message = "You must provide amount_usd or amount_cents, and not both."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "amount_usd"})


class Checkout(TypedDict):
    """A payment by card has begun: it is made at `url`."""

    payment_id: str
    url: str
    expires_at: TIME | None


class CryptoPayment(TypedDict):
    """A payment in USDT has begun: exactly `amount_usdt` to `address`, by which it is told from others."""

    payment_id: str
    amount_usdt: str
    address: str
    network: str
    expires_at: TIME | None
    currency: Literal["USDT"]
    amount: str
    amount_usd: USD


class Payment(TypedDict):
    """A payment. `note` says what was odd about it; `reversed_usd` what a refund or dispute took back."""

    id: str
    object: Literal["payment"]
    method: str
    status: str
    amount_usd: USD
    credited_usd: USD
    reversed_usd: USD
    note: str | None
    created_at: TIME | None
    expires_at: TIME | None


_TAG = "Payments"
_BEGUN = frozenset({Code.PAYMENT_METHOD_UNAVAILABLE, Code.CONFLICT, Code.PROVIDER_ERROR})
CHECKOUT = Description(
    name="createCheckout",
    tag=_TAG,
    summary="Begins a payment by card",
    body=PaymentBody,
    example={"amount_usd": "20.00"},
    answer=Checkout,
    parameters=(IDEMPOTENCY_KEY,),
    refuses=_BEGUN,
)
CRYPTO_PAYMENT = Description(
    name="createCryptoPayment",
    tag=_TAG,
    summary="Begins a payment in USDT",
    body=CryptoPaymentBody,
    example={"amount_usd": "20.00"},
    answer=CryptoPayment,
    parameters=(IDEMPOTENCY_KEY,),
    refuses=_BEGUN,
)
PAYMENT = Description(
    name="getPayment",
    tag=_TAG,
    summary="What became of a payment",
    answer=Payment,
    refuses=frozenset({Code.NOT_FOUND}),
)


def routes(*, payments: PipeClient, identify: Identify) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/billing/checkout", openapi_extra=described(CHECKOUT))
    async def create_checkout(request: Request) -> Response:
        caller = await identify(request)
        body = await decode(request, PaymentBody)
        reply = await payments.call(
            "CreateCheckout",
            payments_pb2.CreateCheckoutRequest(
                request_id=call_id(request, whose="customer"),
                customer_id=caller.customer_id,
                amount_nano_usd=amount(body.amount_usd, param="amount_usd"),
                return_url=link(request, "/"),
            ),
            payments_pb2.CreateCheckoutResponse,
            timeout_s=BEGIN_TIMEOUT_S,
        )
        made = reply.payment
        payload: Checkout = {"payment_id": made.id, "url": made.url, "expires_at": rfc3339(made.expires_at_us)}
        return answer(payload, request_id=context(request).request_id)

    @router.post("/billing/crypto/create-payment", openapi_extra=described(CRYPTO_PAYMENT))
    async def create_crypto_payment(request: Request) -> Response:
        caller = await identify(request)
        body = await decode(request, CryptoPaymentBody)
        reply = await payments.call(
            "CreateCryptoPayment",
            payments_pb2.CreateCryptoPaymentRequest(
                request_id=call_id(request, whose="customer"),
                customer_id=caller.customer_id,
                amount_nano_usd=body.nano_usd(),
            ),
            payments_pb2.CreateCryptoPaymentResponse,
            timeout_s=TIMEOUT_S,
        )
        payload: CryptoPayment = {
            "payment_id": _name(reply.payment),
            "amount_usdt": _usdt(reply.payment.amount_micro_usdt),
            "address": reply.payment.address,
            "network": reply.payment.network,
            "expires_at": to_the_second(reply.payment.expires_at_us),
            "currency": "USDT",
            "amount": _usdt(reply.payment.amount_micro_usdt),
            "amount_usd": usd_text(reply.payment.amount_nano_usd),
        }
        return answer(payload, request_id=context(request).request_id)

    @router.get("/billing/payments/{payment_id}", openapi_extra=described(PAYMENT))
    async def get_payment(request: Request, payment_id: str) -> Response:
        caller = await identify(request)
        reply = await payments.call(
            "GetPayment",
            payments_pb2.GetPaymentRequest(payment_id=payment_id.removeprefix(_NAMED), customer_id=caller.customer_id),
            payments_pb2.GetPaymentResponse,
            timeout_s=TIMEOUT_S,
        )
        return answer(shown(reply.payment), request_id=context(request).request_id)

    return router


def shown(payment: payments_pb2.Payment) -> Payment:
    """A payment as its customer sees it."""
    return {
        "id": _name(payment),
        "object": "payment",
        "method": payment.method,
        "status": payment.status,
        "amount_usd": usd_text(payment.amount_nano_usd),
        "credited_usd": usd_text(payment.credited_nano_usd),
        "reversed_usd": usd_text(payment.reversed_nano_usd),
        "note": payment.note or None,
        "created_at": rfc3339(payment.created_at_us),
        "expires_at": rfc3339(payment.expires_at_us),
    }


def _name(payment: payments_pb2.Payment) -> str:
    """Its id, `pay_…` for one in USDT: a customer who has only this to show can be told what it is."""
    return f"{_NAMED}{payment.id}" if payment.method == "crypto" else payment.id


def _usdt(amount_micro_usdt: int) -> str:
    """Six decimals, of which the last four tell this payment from others; two for a payment over a round sum."""
    text = f"{amount_micro_usdt // 1_000_000}.{amount_micro_usdt % 1_000_000:06d}"
    return text.removesuffix("0000")
