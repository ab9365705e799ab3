"""How the hot path behaves in operation: kept answers, owners that are away, deaf clients, metrics, traces."""

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from aiohttp import web

from chassis.telemetry import Span, Tracer
from services.edge import owners
from services.edge.http import unread
from tests.patience import promised
from tests.unit.edge.web_provider import Provider, chunk, ending, stream
from tests.unit.edge.world import World, edge_world, until
from tests.unit.edge.world_owners import CUSTOMER, KEY
from tollbridge.auth.v1 import auth_pb2
from tollbridge.usage.v1 import usage_pb2


async def test_auths_answer_is_kept_until_the_key_changes(world: World, monkeypatch):
    """As long as it may be believed, auth is asked once; a KeyChanged makes edge ask again."""
    world.truth.keep_ms = 60_000
    monkeypatch.setattr(owners, "MAX_KEEP_S", 60.0)
    for _ in range(3):
        async with world.post(world.body()) as response:
            assert response.status == 200
    assert world.truth.authorized == 1
    changed = auth_pb2.KeyChangedBatch(events=[auth_pb2.KeyChanged(key_id=CUSTOMER, customer_id=CUSTOMER)])
    await world.admission.on_keys_changed(changed.SerializeToString())
    async with world.post(world.body()) as response:
        assert response.status == 200
    assert world.truth.authorized == 2


async def test_without_its_owners_edge_says_so_within_a_second(world: World, provider: Provider, monkeypatch):
    """A running stream ends well; a new request gets 503 with Retry-After soon; what was used reaches billing later."""
    go_on = asyncio.Event()
    provider.handlers = [stream(chunk("one "), go_on, *ending(4, 1))]
    running = await world.post(world.body(stream=True))
    assert b"one " in await running.content.readany()
    await world.owners.server.stop(0)
    monkeypatch.setattr(owners, "AUTHORIZE_TIMEOUT_S", 0.9)
    started_s = time.monotonic()
    async with world.post(world.body()) as response:
        assert response.status == 503, await response.text()
        assert response.headers["retry-after"] == "1"
    assert time.monotonic() - started_s < promised(1.5)
    go_on.set()
    assert (await running.content.read()).endswith(b"data: [DONE]\n\n")
    await until(lambda: len(world.truth.applied) == 1)


async def test_a_client_that_does_not_read_is_given_up(world: World, provider: Provider, monkeypatch):
    """After the timeout it counts as gone, the provider's stream is read to its usage, and nothing leaks."""
    monkeypatch.setattr(unread, "TIMEOUT_S", 0.3)
    many = [chunk("word " * 2000) for _ in range(600)]
    provider.handlers = [stream(*many, *ending(7, 900))]
    host, _, port = world.base_url.removeprefix("http://").rpartition(":")
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(deaf, (host, int(port)))
    body = b'{"model": "fast", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    await loop.sock_sendall(deaf, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, "drain")
    assert event.tokens.output == 900
    await world.settled()
    deaf.close()


async def test_metrics_name_only_models_that_exist(world: World):
    """A made-up model counts as `other`, so that nobody can fill the registry."""
    async with world.post(world.body({"output_tokens": 3})) as response:
        assert response.status == 200
    async with world.post(world.body(model="made-up")) as response:
        assert response.status == 404
    await world.settled()

    def value(name: str, **labels: str) -> float:
        return world.registry.get_sample_value(name, labels) or 0.0

    await until(lambda: value("tollbridge_requests_total", model="fast", status="success") == 1)
    assert value("tollbridge_requests_total", model="other", status="error") == 1
    assert value("tollbridge_answers_total", model="other", code="404") == 1
    assert value("tollbridge_tokens_total", model="fast", direction="completion") == 3
    assert value("tollbridge_first_byte_seconds_count", model="fast") == 1
    assert value("tollbridge_attempts_total", provider="sandbox", outcome="success") == 1


async def test_metrics_tell_of_charges_costs_and_errors_by_their_code(world: World):
    """What billing is told was charged is what the metrics say; who is not let in is counted by why."""
    async with world.post(world.body({"output_tokens": 3})) as response:
        assert response.status == 200
    async with world.post(world.body(), key="tb_live_wrong") as response:
        assert response.status == 401
    event = await world.only_event()

    def value(name: str, **labels: str) -> float:
        return world.registry.get_sample_value(name, labels) or 0.0

    await until(lambda: value("tollbridge_errors_total", code="invalid_api_key") == 1)
    assert event.charge_nano_usd > 0
    assert value("tollbridge_charges_nano_usd_total", model="fast") == event.charge_nano_usd
    assert value("tollbridge_provider_costs_nano_usd_total", provider="sandbox") == event.provider_cost_nano_usd


async def test_a_body_that_is_refused_counts_for_the_model_that_it_names(world: World):
    """By any of its names, as long as it exists: what else stands there is `other`."""
    for model in ("fast", "alias-of-fast", "made-up", 7):
        async with world.post(world.body(model=model, temperature=-1)) as response:
            assert response.status == 400
    async with world.post(b'{"model": "fast"') as response:
        assert response.status == 400

    def count(model: str) -> float | None:
        return world.registry.get_sample_value("tollbridge_requests_total", {"model": model, "status": "error"})

    await until(lambda: (count("fast"), count("other")) == (2, 3))
    assert count("alias-of-fast") is None


@pytest.mark.parametrize("streams", [True, False])
async def test_a_provider_that_speaks_messages_serves_chat(world: World, provider: Provider, streams: bool):
    """Cache reads and writes stand beside the input there; the charge prices each class."""
    world.truth.routes[0]["protocol"] = "anthropic"
    usage = {"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 2}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "theirs", "content": [], "usage": usage}
    events = [
        {"type": "message_start", "message": {**message, "usage": {**usage, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi there"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    told = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]

    async def whole(_: web.Request) -> web.Response:
        content = [{"type": "text", "text": "Hi there"}]
        return web.json_response({**message, "content": content, "stop_reason": "end_turn"})

    provider.handlers = [stream(*told) if streams else whole]
    options = {"stream_options": {"include_usage": True}} if streams else {}
    async with world.post(world.body(stream=streams, **options)) as response:
        text = await response.text()
        assert response.status == 200, text
    assert "Hi there" in text
    event = await world.only_event()
    assert event.charge_nano_usd == 10 * 1000 + 4 * 100 + 3 * 1000 + 2 * 4000
    assert '"cost":0.0000214' in text
    assert event.provider_model == "sandbox-1"
    await world.settled()


CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class RecordingTracer(Tracer):
    """Keeps the names of spans and of their parents."""

    def __init__(self) -> None:
        super().__init__(service="edge", replica="0", otlp_endpoint="")
        self.tree: list[tuple[str, str]] = []

    def span(self, name, *, parent="", kind="internal", **attributes):
        self.tree.append((name, parent))
        return NamedSpan(name)


class NamedSpan(Span):
    """A span whose traceparent is its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def traceparent(self) -> str:
        return self.name


async def test_one_request_is_one_trace(tmp_path: Path):
    """Every step is a child of `edge.request`, itself a child of the client's, and the event carries it on."""
    tracer = RecordingTracer()
    async with edge_world(tmp_path / "spool", tracer=tracer) as world:
        async with world.post(world.body(), headers={"traceparent": CLIENTS}) as response:
            assert response.status == 200
        event = await world.only_event()
        await world.settled()
    assert event.traceparent == "edge.request"
    edge = [(name, parent) for name, parent in tracer.tree if name.startswith("edge.")]
    children = [(f"edge.{step}", "edge.request") for step in ("authorize", "decide", "draw", "attempt")]
    assert edge == [("edge.request", CLIENTS), *children]


async def test_a_made_up_traceparent_gets_nowhere(world: World):
    """What is no trace context is dropped: it would travel on in the event that charges its sender."""
    async with world.post(world.body(), headers={"traceparent": "x" * 4000}) as response:
        assert response.status == 200
    assert (await world.only_event()).traceparent == ""
