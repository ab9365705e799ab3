"""`/webhooks/…`: payment providers tell that something happened. The body is handed to billing byte for byte, since its
signature covers exactly these bytes; billing believes none of it beyond where to look.

Billing has done all that follows from it before the provider gets its 200. Whatever fails on the way is answered as a
failure, and the provider sends the same webhook again.
"""

from typing import Any, Literal, TypedDict

from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.edge.bodies.request_body import ClientLeft, read_body
from services.edge.http.json_http import answer, context
from services.edge.openapi.description import ASKING, Description, described
from tollbridge.billing.v1 import payments_pb2

MAX_BODY_BYTES = 1 << 20
TIMEOUT_S = 15.0
"""Billing reads the object again from its provider, and may have auth suspend the customer."""


class Received(TypedDict):
    """All that follows from it was done."""

    received: Literal[True]


_REFUSES = ASKING | frozenset({Code.PAYMENT_METHOD_UNAVAILABLE, Code.PROVIDER_ERROR, Code.NOT_FOUND, Code.CONFLICT})
STRIPE = Description(
    name="receiveStripeWebhook",
    tag="Payments",
    summary="Stripe tells what became of a payment, signed",
    access="open",
    body=dict[str, Any],
    answer=Received,
    refuses=_REFUSES,
)
CRYPTO = Description(
    name="receiveCryptoWebhook",
    tag="Payments",
    summary="A watcher tells that there are transfers to look at",
    access="open",
    body=dict[str, Any],
    answer=Received,
    refuses=_REFUSES,
)


def routes(*, payments: PipeClient) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/webhooks/stripe", openapi_extra=described(STRIPE))
    async def stripe_webhook(request: Request) -> Response:
        return await receive(request, provider="stripe", signature=request.headers.get("stripe-signature", ""))

    @router.post("/webhooks/crypto", openapi_extra=described(CRYPTO))
    async def crypto_webhook(request: Request) -> Response:
        return await receive(request, provider="crypto", signature="")

    async def receive(request: Request, *, provider: str, signature: str) -> Response:
        await payments.call(
            "ReceiveWebhook",
            payments_pb2.ReceiveWebhookRequest(provider=provider, body=await _body(request), signature=signature),
            payments_pb2.ReceiveWebhookResponse,
            timeout_s=TIMEOUT_S,
        )
        received: Received = {"received": True}
        return answer(received, request_id=context(request).request_id)

    return router


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request.receive, request.headers.raw, most_bytes=MAX_BODY_BYTES)
    except ClientLeft:  # nobody hears this
        raise TollbridgeError(Code.INVALID_REQUEST, "The body did not come whole.") from None
