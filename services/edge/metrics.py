"""What edge counts. Labels are bounded: a model is named only when router knows it, and there is room, else `other`.

Requests are counted as `success` or `error`; which error it was is told by the answers, by their HTTP status.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.errors import Code
from services.edge.spending.lease_book import LeaseFigures

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
        self._retries = Counter(
            "tollbridge_retries",
            "Attempts that failed before the first byte and made us ask for another route, by provider",
            ["provider"],
            registry=registry,
        )
        self._errors = Counter(
            "tollbridge_errors", "Errors told to clients of paid calls, by our code", ["code"], registry=registry
        )
        self._charges = Counter(
            "tollbridge_charges_nano_usd", "Charged for calls answered at once, by model", ["model"], registry=registry
        )
        self._costs = Counter(
            "tollbridge_provider_costs_nano_usd",
            "What they cost us: as the provider reported it, else by the cost table",
            ["provider"],
            registry=registry,
        )
        self._in_flight = Gauge("tollbridge_requests_in_flight", "Requests running now", registry=registry)
        self._pending = Gauge(
            "tollbridge_events_pending", "Usage events that billing has not confirmed", registry=registry
        )
        self._spool = Gauge("tollbridge_spool_pending_bytes", "Bytes in the spool", registry=registry)
        self._spool_bound = Gauge(
            "tollbridge_spool_max_bytes", "Its bound: at 90 % no new requests are taken", registry=registry
        )
        self._waiting = Gauge(
            "tollbridge_requests_waiting", "Requests that wait for their turn to begin", registry=registry
        )
        self._limited = Gauge(
            "tollbridge_limit_subjects", "Keys and customers whose limits are leased here now", registry=registry
        )

    def watch(
        self,
        *,
        in_flight: Callable[[], int],
        events: Callable[[], int],
        spool: Callable[[], int],
        spool_max_bytes: int,
        limited: Callable[[], int],
        waiting: Callable[[], int],
    ) -> None:
        """Where the gauges look when they are scraped."""
        self._in_flight.set_function(in_flight)
        self._pending.set_function(events)
        self._spool.set_function(spool)
        self._spool_bound.set(spool_max_bytes)
        self._limited.set_function(limited)
        self._waiting.set_function(waiting)

    def attempt(self, *, provider: str, outcome: str) -> None:
        """Counts one attempt at a provider."""
        self._attempts.labels(provider, outcome).inc()

    def retry(self, *, provider: str) -> None:
        """Counts an attempt that failed and is not the request's last."""
        self._retries.labels(provider).inc()

    def error(self, code: Code) -> None:
        """Counts an error that a client was told."""
        self._errors.labels(code.value).inc()

    def money(self, *, model: str, provider: str, charge_nano_usd: int, cost_nano_usd: int) -> None:
        """Counts what a request was charged and what it cost us. Exact to 2**53 nano-USD for each label."""
        self._charges.labels(self._models.of(model)).inc(charge_nano_usd)
        self._costs.labels(provider).inc(max(0, cost_nano_usd))

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


class LeaseCollector(Collector):
    """The credit that billing has leased to this process, in nano-USD."""

    def __init__(self, *, figures: Callable[[], LeaseFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Open leases, what is in them, and how often they were asked for, refilled and recalled."""
        found = self._figures()
        count = GaugeMetricFamily("tollbridge_leases", "Leases of credit that are open here.")
        count.add_metric([], float(found.count))
        parts = GaugeMetricFamily(
            "tollbridge_lease_nano_usd",
            "What is in them: open (running requests), spent (not confirmed by billing yet), free.",
            labels=["part"],
        )
        for part, amount in (
            ("open", found.open_nano_usd),
            ("spent", found.spent_nano_usd),
            ("free", found.free_nano_usd),
        ):
            parts.add_metric([part], float(amount))
        events = CounterMetricFamily(
            "tollbridge_lease_events",
            "Leases asked for by a request, refilled before one had to ask, given back when recalled, and lost.",
            labels=["event"],
        )
        for event, times in found.events.items():
            events.add_metric([event], float(times))
        return [count, parts, events]
