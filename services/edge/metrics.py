"""What edge counts. Labels are bounded: a model is named only when router knows it, and there is room, else `other`.

Requests are counted as `success` or `error`; which error it was is told by the answers, by their HTTP status.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

UNKNOWN_MODEL = "other"
MAX_PROVEN = 500
MAX_UNPROVEN = 100
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class ModelLabels:
    """The names of models in use. Below a wildcard callers choose them, so there must be an end to them.

    A model that has answered is told apart from one that never did: names that are made up can't push real ones out.
    """

    def __init__(self) -> None:
        self._proven: set[str] = set()
        self._unproven: set[str] = set()

    def of(self, model: str, *, proven: bool = False) -> str:
        """The label for a model; `proven` when it has just answered."""
        if model in self._proven:
            return model
        if proven and len(self._proven) < MAX_PROVEN:
            self._unproven.discard(model)
            self._proven.add(model)
            return model
        if model in self._unproven:
            return model
        if len(self._unproven) < MAX_UNPROVEN:
            self._unproven.add(model)
            return model
        return UNKNOWN_MODEL


class EdgeMetrics:
    """Edge's Prometheus metrics, in the registry that is given."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._models = ModelLabels()
        self._requests = Counter(
            "tollbridge_requests", "Total requests processed", ["model", "status"], registry=registry
        )
        self._answers = Counter(
            "tollbridge_answers", "Answers by model and HTTP status", ["model", "code"], registry=registry
        )
        self._duration = Histogram(
            "tollbridge_request_duration_seconds", "Request duration", buckets=_SECONDS, registry=registry
        )
        self._first_byte = Histogram(
            "tollbridge_first_byte_seconds",
            "From arrival to the first byte of the answer",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "tollbridge_tokens", "Tokens charged by model and direction", ["model", "direction"], registry=registry
        )
        self._attempts = Counter(
            "tollbridge_attempts", "Attempts by provider and outcome", ["provider", "outcome"], registry=registry
        )
        self._implausible = Counter(
            "tollbridge_implausible_usage",
            "Answers whose usage or cost can't be, by provider: ours took its place",
            ["provider"],
            registry=registry,
        )
        self._in_flight = Gauge("tollbridge_requests_in_flight", "Requests running now", registry=registry)
        self._pending = Gauge(
            "tollbridge_events_pending", "Usage events that billing has not confirmed", registry=registry
        )
        self._spool = Gauge("tollbridge_spool_pending_bytes", "Bytes in the spool", registry=registry)

    def watch(self, *, in_flight: Callable[[], int], events: Callable[[], int], spool: Callable[[], int]) -> None:
        """Where the gauges look when they are scraped."""
        self._in_flight.set_function(in_flight)
        self._pending.set_function(events)
        self._spool.set_function(spool)

    def attempt(self, *, provider: str, outcome: str) -> None:
        """Counts one attempt at a provider."""
        self._attempts.labels(provider, outcome).inc()

    def implausible(self, *, provider: str) -> None:
        """Counts an answer whose usage or cost we did not believe."""
        self._implausible.labels(provider).inc()

    def first_byte(self, *, model: str, seconds: float) -> None:
        """Notes how long a client waited for its answer to begin."""
        self._first_byte.labels(self._models.of(model)).observe(seconds)

    def request(self, *, model: str, status: int, seconds: float) -> None:
        """Counts one request; `status` is 499 when the client left before there was one."""
        label = self._models.of(model, proven=status < 400)
        self._requests.labels(label, "success" if status < 400 else "error").inc()
        self._answers.labels(label, str(status)).inc()
        self._duration.observe(seconds)

    def tokens(self, *, model: str, prompt: int, completion: int) -> None:
        """Counts what was charged."""
        label = self._models.of(model)
        self._tokens.labels(label, "prompt").inc(prompt)
        self._tokens.labels(label, "completion").inc(completion)
