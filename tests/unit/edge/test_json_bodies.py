"""JSON bodies outside the hot path: up to 20 MiB, and not a byte more is kept."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal

import httpx
import pytest

from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.bodies.request_body import MAX_BODY_BYTES
from services.edge.config import without_file
from services.edge.http.json_http import Caller, amount
from services.edge.routes import tasks
from tests.unit.edge.claim_desk import NOBODY
from tollbridge.tasks.v1 import tasks_pb2

CHUNK = bytes(1 << 20)


class Tasks:
    """The tasks service, which remembers the bodies that it was handed."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def call(self, method: str, request: tasks_pb2.CreateTaskRequest, *_: object, **__: object):
        assert method == "CreateTask"
        self.bodies.append(request.body)
        task = tasks_pb2.Task(id=request.task_id, status=tasks_pb2.TASK_STATUS_PENDING)
        return tasks_pb2.CreateTaskResponse(task=task)


async def identify(_: object) -> Caller:
    return Caller(customer_id="c", key_id="k", models=frozenset())


async def post(content: bytes | AsyncIterator[bytes], handed_over: Tasks) -> httpx.Response:
    public = new_fastapi()
    made = tasks.routes(tasks=handed_over, claims=NOBODY, limits=NOBODY, catalogue=NOBODY, identify=identify)  # type: ignore[arg-type]  # stand-ins
    public.include_router(made)
    tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
    app = EdgeApp(config=without_file(), public=public, own=new_fastapi(), hot={}, tracer=tracer)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # a bare ASGI callable
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        return await client.post("/v1/images/generations", content=content, headers={"prefer": "respond-async"})


def order_of(size: int) -> bytes:
    """An image order of exactly so many bytes."""
    bare = len(json.dumps({"model": "m", "prompt": "p", "image": ""}))
    return json.dumps({"model": "m", "prompt": "p", "image": "x" * (size - bare)}).encode()


async def test_a_body_of_20_mib_passes_as_it_is() -> None:
    """The largest that the contract allows reaches tasks byte for byte."""
    handed_over, body = Tasks(), order_of(MAX_BODY_BYTES)
    assert len(body) == 20 * 1024 * 1024
    reply = await post(body, handed_over)
    assert reply.status_code == 200, reply.text
    assert handed_over.bodies == [body]


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", 7), ("quality", []), ("style", {}), ("background", 1.5), ("stream", "yes"), ("user", True), ("n", "2")],
)
async def test_an_image_is_not_ordered_with_a_field_of_another_type(field: str, value: object) -> None:
    """It is named, and no task begins; null says nothing."""
    handed_over = Tasks()
    reply = await post(json.dumps({"model": "m", "prompt": "p", field: value}).encode(), handed_over)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert not handed_over.bodies


async def test_a_larger_body_is_413_in_the_dialects_shape() -> None:
    """One byte more, known before any of it is read."""
    handed_over = Tasks()
    reply = await post(order_of(MAX_BODY_BYTES + 1), handed_over)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"
    assert "20 MiB" in reply.json()["error"]["message"]
    assert handed_over.bodies == []


async def test_a_body_without_a_length_is_read_no_further_than_the_bound() -> None:
    """An endless upload is refused in its 21st MiB; nothing buffers the rest."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield CHUNK

    reply = await post(endless(), Tasks())
    assert reply.status_code == 413
    assert sent <= 22


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", b"\xff", b""])
async def test_what_is_no_json_of_decent_depth_is_400(body: bytes) -> None:
    """Never a 500."""
    assert (await post(body, Tasks())).status_code == 400


@pytest.mark.parametrize(
    ("usd", "what"),
    [
        ("NaN", "must be a number"),
        ("sNaN", "must be a number"),
        ("-Infinity", "must be a number"),
        ("1e30", "must be at most 9007199.254740992 USD"),
        ("-1e99999999", "must be at most 9007199.254740992 USD"),
        ("-9999999999999", "must be at most 9007199.254740992 USD"),
        ("9007199.254740993", "must be at most 9007199.254740992 USD"),
        ("0.0000000001", "has at most nine decimals"),
        ("1e-30", "has at most nine decimals"),
    ],
)
def test_a_refused_amount_says_what_is_wrong_with_it(usd: str, what: str) -> None:
    """No number, too large and too fine are three things."""
    with pytest.raises(TollbridgeError) as caught:
        amount(Decimal(usd), param="amount_usd")
    assert (caught.value.code, caught.value.details["param"]) == (Code.INVALID_REQUEST, "amount_usd")
    assert caught.value.message == f"amount_usd {what}."
    assert amount(Decimal("-9007199.254740992"), param="amount_usd") == -(1 << 53)
