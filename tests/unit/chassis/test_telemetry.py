"""Logs without secrets, traces without cost until there is an endpoint."""

import asyncio
import errno
import http.server
import io
import json
import subprocess
import sys
import threading

import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client import CollectorRegistry

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from chassis.rpc import CallContext, Handler, RpcServer, RpcService
from chassis.telemetry import PatientLines, Tracer, hider, redact
from tollbridge.auth.v1 import auth_pb2

CANARIES = {
    "key": "canary-1",
    "secret": "canary-2",
    "token": "canary-3",
    "authorization": "Bearer canary-4",
    "credential": "canary-5",
    "api_key": "canary-6",
    "Stripe_Secret": "canary-7",
}


def run(script: str) -> list[dict[str, object]]:
    """Log lines of a process that does nothing but `script`."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_values_of_secret_keys_are_hidden_at_any_depth() -> None:
    """A secret passed by its name never reaches a log line."""
    event = {**CANARIES, "deep": {"list": [CANARIES, (CANARIES,)]}, "input_tokens": 5, "key_id": "k1"}
    clean = redact(None, "info", event)
    assert "canary" not in json.dumps(clean)
    assert (clean["input_tokens"], clean["key_id"]) == (5, "k1")


@pytest.mark.parametrize(
    "secret",
    [
        "tb_live_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg",
        "dsk_live_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg",
        "sk-proj-AbCdEfGhIjKlMnOpQrStUvWxYz",
        "sk-df-AbCdEfGhIjKlMnOpQrStUvWxYz",
        "db-AbCdEfGhIjKlMnOpQrStUvWxYz",
        "sk_live_AbCdEfGhIjKlMnOpQrStUvWxYz",
        "whsec_AbCdEfGhIjKlMnOpQrStUvWxYz",
        "Bearer AbCdEfGhIjKlMnOpQrStUvWxYz",
        "tba_AbCdEfGhIjKlMnOpQrStUvWxYz-0123456789_abcde",
        "edge:AbCdEfGhIjKlMnOpQrStUvWxYz012345",
        "acme-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg",
        "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcdefg",
        "postgresql://user:AbCdEfGhIjKlMnOpQrStUvWxYz@host/db",
    ],
)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(secret: str) -> None:
    """A key inside a message, an exception or an object's text is masked, and the rest of the text stays."""
    clean = redact(None, "info", {"event": f"before {secret} after", "error": ValueError(secret)})
    assert "KlMnOpQr" not in json.dumps(clean)
    assert str(clean["event"]).startswith("before ")
    assert str(clean["event"]).endswith(" after") or "://" in secret


def test_ordinary_text_stays() -> None:
    """UUIDs, model names and addresses are what logs are for."""
    texts = [
        "01a1fc6b-af7d-793a-95bf-8ec25efbe122",
        "deepseek-v4-flash",
        "http://127.0.0.1:8080/v1/chat",
        "ask-me-anything-about-it",
        "Bearer authentication is required",
        "db-migrations-of-billing are done",
        "router:9000 and edge:tollbridge-edge-headless",
        "config hash 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ]
    assert redact(None, "info", {"texts": texts}) == {"texts": texts}


def test_secrets_that_the_process_was_told_are_hidden_by_value() -> None:
    """An operator's own secret may look like a word; it is hidden all the same, and short values hide nothing."""
    environ = {
        "TOLLBRIDGE_SERVICE_TOKENS": "edge:plainwords,tasks:otherwords",
        "TOLLBRIDGE_ADMIN_TOKEN": "open sesame",
        "TOLLBRIDGE_SERVICE_TOKEN": "edge:x",
        "TOLLBRIDGE_REPLICA": "replica-zero",
    }
    event = {"event": "it was plainwords, expected", "deep": ["otherwords", {"a": "open sesame"}], "r": "replica-zero"}
    clean = hider(environ)(None, "info", event)
    assert clean == {"event": "it was …, expected", "deep": ["…", {"a": "…"}], "r": "replica-zero"}


def test_logs_of_libraries_are_json_with_the_request_id_too() -> None:
    """One format on stderr whoever speaks, exceptions included, and every line tells whose it is."""
    lines = run(
        """
import logging, structlog
from chassis.telemetry import configure_logging
configure_logging(service="auth", replica="2", level="info")
structlog.contextvars.bind_contextvars(request_id="r1")
structlog.get_logger().info("hello", token="canary", n=1)
structlog.get_logger().debug("never")
try:
    raise RuntimeError("sk-AbCdEfGhIjKlMnOpQrStUvWxYz")
except RuntimeError:
    logging.getLogger("lib").exception("trouble with %s", "tb_live_AbCdEfGhIjKlMnOpQrStUvWxYz")
"""
    )
    assert [line["event"] for line in lines] == ["hello", "trouble with tb_live_Ab…"]
    assert all((line["service"], line["replica"], line["request_id"]) == ("auth", "2", "r1") for line in lines)
    assert "canary" not in json.dumps(lines)
    assert "KlMnOpQr" not in json.dumps(lines)
    assert "RuntimeError" in str(lines[1]["exception"])


def test_a_disk_that_takes_no_log_line_fails_nobody() -> None:
    """The line is counted, and the next one that can be written tells so."""

    class Disk(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "no space left on device")
            return super().write(text)

    disk = Disk()
    lines = PatientLines(disk)
    for _ in range(2):
        lines.write("never seen\n")
    disk.full = False
    for word in ("one", "two"):
        lines.write(f"{word}\n")
    told, *rest = disk.getvalue().splitlines()
    assert json.loads(told) == {"event": "log_lines_late_or_lost", "lines": 2}
    assert rest == ["one", "two"]


def test_without_an_endpoint_nothing_is_traced_or_imported() -> None:
    """Tracing that is off costs one attribute check, and its SDK is never loaded."""
    tracer = Tracer(service="auth", replica="0", otlp_endpoint="")
    with tracer.span("x", parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", kind="server", a=1) as span:
        span.set(b="c")
        assert (tracer.enabled, span.traceparent) == (False, "")
    tracer.close()
    script = "import sys, chassis.rpc, chassis.pipe; assert 'opentelemetry.sdk' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


class Collector:
    """An OTLP/HTTP endpoint that keeps what it gets."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Receive(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.append(self.path)
                collector.requests.append(ExportTraceServiceRequest.FromString(raw))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receive)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> dict[str, Span]:
        """Everything received, by the kind and name of the span."""
        self.server.shutdown()
        self.server.server_close()
        scopes = [scope for request in self.requests for each in request.resource_spans for scope in each.scope_spans]
        return {f"{span.kind} {span.name}": span for scope in scopes for span in scope.spans}


def test_spans_are_exported_as_one_tree() -> None:
    """Parent and child share the trace, failures show their code, and `close` sends what is queued."""
    collector = Collector()
    tracer = Tracer(service="edge", replica="1", otlp_endpoint=collector.endpoint)
    outside = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with (
        tracer.span("request", parent=outside, kind="server", model="m") as outer,
        pytest.raises(TollbridgeError),
        tracer.span("call", parent=outer.traceparent, kind="client"),
    ):
        raise TollbridgeError(Code.UNAVAILABLE, "no")
    tracer.close()
    spans = collector.spans()
    assert set(collector.paths) == {"/v1/traces"}
    resource = collector.requests[0].resource_spans[0]
    names = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert (names["service.name"], names["service.instance.id"]) == ("tollbridge-edge", "1")
    assert {span.trace_id.hex() for span in spans.values()} == {outside.split("-")[1]}
    assert spans["2 request"].parent_span_id.hex() == outside.split("-")[2]
    assert spans["3 call"].parent_span_id == spans["2 request"].span_id
    assert spans["3 call"].attributes[0].value.string_value == "unavailable"


async def test_one_trace_goes_through_the_pipe_into_the_handler() -> None:
    """The client's span is the server's parent, and the handler is given the server's to go on with."""
    collector = Collector()
    tracer = Tracer(service="auth", replica="0", otlp_endpoint=collector.endpoint)
    descriptor = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
    seen: list[str] = []

    async def look(_request: auth_pb2.GetCustomerRequest, context: CallContext) -> Message:
        seen.append(context.traceparent)
        return auth_pb2.GetCustomerResponse()

    server = RpcServer(
        services=[RpcService(descriptor, {"GetCustomer": Handler(look, frozenset({"edge"}))})],
        bind="127.0.0.1:0",
        tokens={"edge": "s"},
        tracer=tracer,
        registry=CollectorRegistry(),
    )
    pipe = PipeClient(descriptor=descriptor, addresses=await server.start(), token="edge:s", tracer=tracer)
    await pipe.start()
    with tracer.span("request") as root:
        await pipe.call(
            "GetCustomer",
            auth_pb2.GetCustomerRequest(),
            auth_pb2.GetCustomerResponse,
            timeout_s=10,
            traceparent=root.traceparent,
        )
    await pipe.close()
    await server.stop(1)
    await asyncio.to_thread(tracer.close)
    spans = await asyncio.to_thread(collector.spans)
    asked, answered = spans["3 AuthService/GetCustomer"], spans["2 AuthService/GetCustomer"]
    assert asked.parent_span_id == spans["1 request"].span_id
    assert answered.parent_span_id == asked.span_id
    assert [trace[:-3] for trace in seen] == [f"00-{answered.trace_id.hex()}-{answered.span_id.hex()}"]
