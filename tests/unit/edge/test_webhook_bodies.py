"""Bodies of webhooks, which anybody may send: bounded in size and in time."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock

import httpx
import pytest

from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.bodies import request_body
from services.edge.config import without_file
from services.edge.routes import webhooks
from tollbridge.billing.v1 import payments_pb2


async def posted(content: bytes | AsyncIterator[bytes], payments: AsyncMock) -> httpx.Response:
    """What edge answers to a webhook of Stripe's."""
    own = new_fastapi()
    own.include_router(webhooks.routes(payments=payments))
    tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
    app = EdgeApp(config=without_file(), public=new_fastapi(), own=own, hot={}, tracer=tracer)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # a bare ASGI callable
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        return await client.post("/webhooks/stripe", content=content)


@pytest.fixture
def payments() -> AsyncMock:
    """Billing, which takes everything."""
    taken = AsyncMock()
    taken.call.return_value = payments_pb2.ReceiveWebhookResponse()
    return taken


async def test_a_webhook_reaches_billing_byte_for_byte(payments: AsyncMock) -> None:
    """The signature covers exactly these bytes."""
    body = b'{ "id":\t"evt_1"}\n' + b" " * 300_000
    assert (await posted(body, payments)).status_code == 200
    assert payments.call.call_args.args[1].body == body


async def test_a_webhook_that_is_too_large_or_never_ends_is_refused(
    payments: AsyncMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413 above a megabyte; 400 when it does not come in time, so that nobody holds connections open with it."""
    assert (await posted(b"x" * ((1 << 20) + 1), payments)).status_code == 413
    monkeypatch.setattr(request_body, "BODY_TIMEOUT_S", 0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with asyncio.timeout(10):
        refused = await posted(endless(), payments)
    assert refused.status_code == 400
    payments.call.assert_not_awaited()
