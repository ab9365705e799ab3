"""`/webhooks/…`: payment providers tell that something happened. The body is handed to billing byte for byte, since its
signature covers exactly these bytes; billing believes none of it beyond where to look.

When money was taken back, billing names the customer and edge has auth suspend them before the provider gets its 200.
Whatever fails on the way is answered as a failure, and the provider sends the same webhook again.
"""

from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.edge.json_http import answer, context
from services.edge.request_body import ClientLeft, read_body
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import payments_pb2

MAX_BODY_BYTES = 1 << 20
TIMEOUT_S = 15.0
"""Billing reads the object again from its provider."""
AUTH_TIMEOUT_S = 3.0


def routes(*, payments: PipeClient, auth: PipeClient) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/webhooks/stripe")
    async def stripe_webhook(request: Request) -> Response:
        return await receive(request, provider="stripe", signature=request.headers.get("stripe-signature", ""))

    @router.post("/webhooks/crypto")
    async def crypto_webhook(request: Request) -> Response:
        return await receive(request, provider="crypto", signature="")

    async def receive(request: Request, *, provider: str, signature: str) -> Response:
        reply = await payments.call(
            "ReceiveWebhook",
            payments_pb2.ReceiveWebhookRequest(provider=provider, body=await _body(request), signature=signature),
            payments_pb2.ReceiveWebhookResponse,
            timeout_s=TIMEOUT_S,
        )
        if reply.suspend_customer_id:
            await _suspend(auth, reply.suspend_customer_id, cause=reply.cause)
        return answer({"received": True}, request_id=context(request).request_id)

    return router


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request.receive, request.headers.raw, most_bytes=MAX_BODY_BYTES)
    except ClientLeft:  # nobody hears this
        raise TollbridgeError(Code.INVALID_REQUEST, "The body did not come whole.") from None


async def _suspend(auth: PipeClient, customer_id: str, *, cause: str) -> None:
    """Suspends an active customer; one who is banned stays so. The cause is the call's id: it suspends once."""
    found = await auth.call(
        "GetCustomer",
        auth_pb2.GetCustomerRequest(customer_id=customer_id),
        auth_pb2.GetCustomerResponse,
        timeout_s=AUTH_TIMEOUT_S,
    )
    if found.customer.status != auth_pb2.CUSTOMER_STATUS_ACTIVE:
        return
    await auth.call(
        "UpdateCustomer",
        auth_pb2.UpdateCustomerRequest(
            request_id=cause, customer_id=customer_id, status=auth_pb2.CUSTOMER_STATUS_SUSPENDED
        ),
        auth_pb2.UpdateCustomerResponse,
        timeout_s=AUTH_TIMEOUT_S,
    )
