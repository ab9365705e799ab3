"""A request leaves one trace across the services, and no secret in any log."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.offer import CONFIG
from tests.integration.running import Gateway, Provider, gateway, wait_until


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[tuple[str, bytes, bytes, bytes, str]] = []


class Receiver(BaseHTTPRequestHandler):
    """One export."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    row = (
                        names["service.name"].removeprefix("tollbridge-"),
                        span.trace_id,
                        span.span_id,
                        span.parent_span_id,
                        span.name,
                    )
                    self.server.spans.append(row)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A running collector."""
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, fake_provider: Provider, collector: Collector
) -> Iterator[Gateway]:
    """A system that exports its traces."""
    directory: Path = tmp_path_factory.mktemp("traced")
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    config = CONFIG % {"provider": fake_provider.url}
    with gateway(directory, config, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as running:
        yield running


async def test_one_request_is_one_trace_from_edge_to_the_ledger(traced: Gateway, collector: Collector) -> None:
    """Edge, auth, router and billing appear in one trace under the client's own span, billing's settlement included."""
    account = await asyncio.to_thread(traced.customer, credit_usd="1")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    reply = await asyncio.to_thread(
        httpx.post,
        f"{traced.base_url}/v1/chat/completions",
        headers=account.headers | {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
        json={"model": "alpha-chat", "messages": [{"role": "user", "content": "hi"}]},
    )
    assert reply.status_code == 200

    def tree() -> dict[str, set[str]] | None:
        ours = [span for span in list(collector.spans) if span[1].hex() == trace_id]
        names: dict[str, set[str]] = {}
        for service, _, _, _, name in ours:
            names.setdefault(service, set()).add(name)
        done = {"edge", "auth", "router", "billing"} <= set(names) and "billing.apply_usage" in names["billing"]
        return names if done else None

    names = await asyncio.to_thread(wait_until, tree, timeout_s=30, what="all services' spans")
    assert {"edge.request", "edge.authorize", "edge.decide", "edge.draw", "edge.attempt"} <= names["edge"]
    ours = [span for span in collector.spans if span[1].hex() == trace_id]
    known = {span_id for _, _, span_id, _, _ in ours} | {bytes.fromhex("00f067aa0ba902b7")}
    assert [name for _, _, _, parent, name in ours if parent not in known] == []


async def test_an_image_task_is_one_trace_from_the_client_to_the_ledger(traced: Gateway, collector: Collector) -> None:
    """Edge, the tasks API and its hold, the worker behind the bus, its provider's choice, and the settlement."""
    account = await asyncio.to_thread(traced.customer, credit_usd="1")
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    reply = await asyncio.to_thread(
        httpx.post,
        f"{traced.base_url}/v1/images/generations",
        headers=account.headers | {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"},
        json={"model": "sandbox-image", "prompt": "a bridge"},
        timeout=70,
    )
    assert reply.status_code == 200

    def tree() -> set[tuple[str, str]] | None:
        names = {(row[0], row[4].rpartition(".")[2]) for row in list(collector.spans) if row[1].hex() == trace_id}
        wanted = {
            ("edge", "request"),
            ("auth", "AuthService/Authorize"),
            ("tasks", "TasksService/CreateTask"),
            ("billing", "BillingService/Hold"),
            ("tasks", "tasks/run"),
            ("router", "RouterService/Decide"),
            ("billing", "apply_usage"),
        }
        return names if wanted <= names else None

    await asyncio.to_thread(wait_until, tree, timeout_s=30, what="every service's spans")
    ours = [span for span in collector.spans if span[1].hex() == trace_id]
    known = {span_id for _, _, span_id, _, _ in ours} | {bytes.fromhex("b7ad6b7169203331")}
    assert [name for _, _, _, parent, name in ours if parent not in known] == []


async def test_no_log_line_holds_a_secret(traced: Gateway) -> None:
    """Keys, tokens, provider credentials and prompts never reach a log, and every line is JSON with its service."""
    account = await asyncio.to_thread(traced.customer, credit_usd="1")
    for model in ("alpha-chat", "claudius-chat", "no-such-model"):
        body = {"model": model, "messages": [{"role": "user", "content": "canary-prompt"}]}
        url = f"{traced.base_url}/v1/chat/completions"
        await asyncio.to_thread(httpx.post, url, json=body, headers=account.headers)
    secrets = [account.key, traced.ready["admin_token"], "canary-alpha-secret", "canary-claudius-secret"]
    secrets += ["canary-prompt"]
    logs = [path for path in traced.data_dir.rglob("*.log") if path.is_file()]
    assert logs
    for path in logs:
        text = path.read_text(errors="replace")
        assert [secret for secret in secrets if secret in text] == [], path
    lines = [line for path in logs if path.stem.startswith("edge") for line in path.read_text().splitlines()]
    assert all("service" in json.loads(line) for line in lines)
