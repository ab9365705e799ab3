"""Logs, traces and what must never be in them.

Logs are JSON lines on stderr, from structlog and from libraries alike; `bind_contextvars(request_id=…)` of
structlog.contextvars puts an id on every line of a request. Traces cost one attribute check until an OTLP endpoint is
set: only then is the OpenTelemetry SDK imported.
"""

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from chassis.settings import PREFIX, environment

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

Attribute = str | int | bool
Kind = Literal["internal", "server", "client", "producer", "consumer"]

HIDDEN = "…"
SECRET_KEYS = frozenset({"key", "secret", "token", "authorization", "credential", "credentials", "password"})
SECRET_ENDINGS = ("_secret", "_token", "_password", "_credential", "api_key", "api-key", "private_key")
SECRET_VARIABLES = ("token", "tokens", "secret", "key", "keys", "password", "peppers")
_RANDOM = r"(?=[\w+/=.:-]*(?:[0-9A-Z]|[a-z]{24}))"
"""Words are no secrets: there must be a digit, a capital or a very long run of letters."""
_SECRETS = re.compile(
    r"((?:\b[a-z]{2,4}_(?:live|test)_|\btba_|\bsk-(?:[a-z]{2,5}-)?|\bdb-|\bwhsec_|\bBearer\s+)"
    rf"{_RANDOM}\w{{0,2}})[\w+/=.:-]{{10,}}"
    r"|(://[^/\s:@]+:)[^/\s@]+(?=@)"
    r"|(\b(?:edge|auth|router|billing|tasks|cli|admin):)(?=[\w+/=-]*\d)[\w+/=-]{16,}"
    r"|(\b\d{1,5}:)[0-9a-f]{32,}\b"  # a pepper
    # a key under any prefix: mixed case, so that a hash in hex is none
    r"|((?<![0-9A-Za-z])(?=[0-9a-z]*[A-Z])(?=[0-9A-Z]*[a-z])[0-9A-Za-z]{2})[0-9A-Za-z]{41,}(?![0-9A-Za-z])"
)
_SHOWN = rf"\1\2\3\4\5{HIDDEN}"
SHORTEST_KNOWN = 8
"""Shorter values of secret variables are too likely to be part of innocent words."""
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
MAX_DEPTH = 6
MAX_QUEUED_SPANS = 8192
EXPORT_TIMEOUT_S = 5


def configure_logging(*, service: str, replica: str, level: str) -> None:
    """Sends structlog and the standard library's logging to stderr as JSON lines; called once, by a process's start."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    hide = hider(environment())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service, replica),
        structlog.processors.format_exc_info,
        hide,
        redact,
    ]
    render = structlog.processors.JSONRenderer(serializer=_json)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, PatientLines(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, hide, redact, render],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO), force=True)


class PatientLines:
    """Where log lines go: what can't be written (a full disk) is counted and told later, and fails no request."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, line: str) -> None:
        """Writes a line, and before it of how many that can not be said."""
        lost = self._lost
        missing = f'{{"event": "log_lines_late_or_lost", "lines": {lost}}}\n' if lost else ""
        try:
            self._stream.write(missing + line)
            self._stream.flush()
        except OSError:
            self._lost += 1
            return
        self._lost = 0

    def flush(self) -> None:
        """Nothing waits: each line is flushed."""


def hider(environ: Mapping[str, str]) -> Processor:
    """Hides by their values, whatever they look like, the secrets that this process was told in its environment."""
    known = known_secrets(_secrets_in(environ))

    def clean(value: object) -> object:
        if isinstance(value, str):
            return known.sub(HIDDEN, value)
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    def hide(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {name: value if name.startswith("_") else clean(value) for name, value in event.items()}

    return hide


def known_secrets(values: Collection[str]) -> re.Pattern[str]:
    """Finds these values, the longest first; those shorter than SHORTEST_KNOWN are left alone."""
    long_enough = (each for each in values if len(each) >= SHORTEST_KNOWN)
    return re.compile("|".join(map(re.escape, sorted(long_enough, key=len, reverse=True))) or "(?!)")


def _secrets_in(environ: Mapping[str, str]) -> set[str]:
    """Values of secret variables; of lists such as `edge:<secret>,tasks:<secret>` each secret."""
    found = set()
    for name, value in environ.items():
        if not name.startswith(PREFIX) or not name.lower().endswith(SECRET_VARIABLES):
            continue
        found |= {part.strip().rpartition(":")[2] for part in value.split(",")}
    return found


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hides values whose key says secret, and what looks like a key or a password wherever it stands."""
    return {name: _clean(name, value, 0) for name, value in event.items()}


def _clean(name: str, value: object, depth: int) -> object:
    lowered = name.lower()
    if value and (lowered in SECRET_KEYS or lowered.endswith(SECRET_ENDINGS)):
        return HIDDEN
    if isinstance(value, str):
        return _SECRETS.sub(_SHOWN, value)
    if value is None or isinstance(value, int | float) or name.startswith("_"):
        return value
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        return {str(key): _clean(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < MAX_DEPTH:
        return [_clean("", item, depth + 1) for item in value]
    return HIDDEN if depth == MAX_DEPTH else _SECRETS.sub(_SHOWN, str(value))


def _named(service: str, replica: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"], event["replica"] = service, replica
        return event

    return add


def _json(value: object, **_options: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def checked_traceparent(text: str) -> str:
    """A W3C trace context as it is, empty when it is none: it is stored and travels on, so nothing else may get in."""
    return text if _TRACEPARENT.fullmatch(text) else ""


class Span:
    """One step of a trace. This one, used while tracing is off, does nothing."""

    __slots__ = ()

    @property
    def traceparent(self) -> str:
        """W3C trace context to hand on; empty when tracing is off."""
        return ""

    def set(self, **attributes: Attribute) -> None:
        """Adds attributes. Values must be fit for an operator's eyes: no secrets, no prompts."""

    def fail(self, error: BaseException) -> None:
        """Marks the step as failed. An exception that leaves the span's block does it by itself."""

    def __enter__(self) -> "Span":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        """Ends the span."""


class _LiveSpan(Span):
    __slots__ = ("_span",)

    def __init__(self, span: "trace.Span") -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def set(self, **attributes: Attribute) -> None:
        self._span.set_attributes(attributes)

    def fail(self, error: BaseException) -> None:
        from opentelemetry.trace import StatusCode

        code = getattr(error, "code", None)
        self._span.set_attribute("error.type", str(code or type(error).__name__))
        self._span.set_status(StatusCode.ERROR)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        self._span.end()


class Tracer:
    """Makes spans and sends them to an OTLP/HTTP endpoint in batches; with an empty endpoint it makes none.

    The parent is always given, never taken from a context variable: a pipe's tasks serve many callers. Spans beyond
    the bounded queue are dropped.
    """

    def __init__(self, *, service: str, replica: str, otlp_endpoint: str) -> None:
        self.enabled = bool(otlp_endpoint)
        self._off = Span()
        self._start: Callable[[str, str, Kind, Mapping[str, Attribute]], Span] | None = None
        self._provider: TracerProvider | None = None
        if self.enabled:
            self._turn_on(service, replica, otlp_endpoint)

    def span(self, name: str, *, parent: str = "", kind: Kind = "internal", **attributes: Attribute) -> Span:
        """A span to be used in a `with`; `parent` is a traceparent, empty for a new trace."""
        return self._off if self._start is None else self._start(name, parent, kind, attributes)

    def close(self) -> None:
        """Sends what is queued; may block for 5 seconds, so it comes last in a process."""
        if self._provider is not None:
            self._provider.shutdown()

    def _turn_on(self, service: str, replica: str, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        url = endpoint if endpoint.endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S)
        names = {"service.name": f"tollbridge-{service}", "service.instance.id": replica}
        provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUED_SPANS))
        tracer, propagator = provider.get_tracer("tollbridge"), TraceContextTextMapPropagator()

        def start(name: str, parent: str, kind: Kind, attributes: Mapping[str, Attribute]) -> Span:
            context = propagator.extract({"traceparent": parent}) if parent else None
            return _LiveSpan(tracer.start_span(name, context, SpanKind[kind.upper()], attributes))

        self._provider, self._start = provider, start
