"""What operators see of an exchange: its failures in the log, its attempts and tokens in metrics."""

from structlog.typing import FilteringBoundLogger

from services.edge.metrics import EdgeMetrics
from services.edge.spending.settlement import Tab
from upstream.outcome import AttemptFailed, Outcome


class Observer:
    """Tells about one exchange."""

    __slots__ = ("_log", "_metrics", "_request_id", "_tab")

    def __init__(self, *, log: FilteringBoundLogger, metrics: EdgeMetrics, tab: Tab, request_id: str) -> None:
        self._log = log
        self._metrics = metrics
        self._tab = tab
        self._request_id = request_id

    @property
    def _provider(self) -> str:
        return self._tab.route.provider_id if self._tab.route is not None else ""

    def failed(self, failure: AttemptFailed, *, model: str) -> None:
        """A provider failed, and nothing else is tried."""
        self._log.warning(
            "provider_failed",
            request_id=self._request_id,
            model=model,
            provider=self._provider,
            outcome=failure.outcome.value,
            reason=failure.message,
        )

    def attempt(self, outcome: Outcome) -> None:
        """An attempt ended."""
        self._metrics.attempt(provider=self._provider, outcome=outcome.value)

    def retry(self, outcome: Outcome) -> None:
        """An attempt failed before the first byte, and router is asked for another."""
        self.attempt(outcome)
        self._metrics.retry(provider=self._provider)

    def settled(self, *, model: str) -> None:
        """The tab is closed: what was used, and whether that can be."""
        event = self._tab.event
        if event is None:
            return
        if event.implausible:
            self._metrics.implausible(provider=event.provider_id)
            self._log.warning(
                "implausible_usage",
                request_id=self._request_id,
                model=model,
                provider=event.provider_id,
                generation_id=event.generation_id,
                charge_nano_usd=event.charge_nano_usd,
                reported_cost_nano_usd=event.provider_reported_cost_nano_usd,
            )
        reported = event.provider_reported_cost_nano_usd
        self._metrics.money(
            model=model,
            provider=event.provider_id,
            charge_nano_usd=event.charge_nano_usd,
            cost_nano_usd=event.provider_cost_nano_usd if event.implausible or reported < 0 else reported,
        )
        if event.charge_nano_usd:
            used = event.tokens
            prompt = used.input + used.cached_input + used.cache_write + used.cache_write_1h
            self._metrics.tokens(model=model, prompt=prompt, completion=used.output)
