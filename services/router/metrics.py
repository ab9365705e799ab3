"""Router's numbers for Prometheus. Labels come from the config file only, so a caller can't make new series."""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.router.breaker import Breaker
from services.router.registry import Registry

STATES = ("ready", "cooling", "broken")


class Decisions:
    """Counts decisions by model and outcome."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "tollbridge_router_decisions",
            "Decisions by model and outcome (routed, or the code of the refusal).",
            ["model", "outcome"],
            registry=registry,
        )

    def count(self, model_id: str, outcome: str) -> None:
        """`model_id` is a configured one, or empty."""
        self._counter.labels(model_id or "unknown", outcome).inc()


class PoolCollector(Collector):
    """States of accounts, read when they are asked for."""

    def __init__(
        self,
        *,
        models: Callable[[], Registry],
        breaker: Breaker,
        load_of: Callable[[str], int],
    ) -> None:
        self._models, self._breaker, self._load_of = models, breaker, load_of

    def collect(self) -> Iterable[Metric]:
        """One sample per account and state, and the running attempts."""
        state = GaugeMetricFamily(
            "tollbridge_router_account_state", "1 for the state it is in.", labels=["account", "state"]
        )
        load = GaugeMetricFamily(
            "tollbridge_router_account_attempts", "Running attempts decided by this replica.", labels=["account"]
        )
        now_s = time.monotonic()
        for account_id in self._models().accounts:
            current = self._breaker.state(account_id, now_s=now_s)
            for name in STATES:
                state.add_metric([account_id, name], float(name == current))
            load.add_metric([account_id], float(self._load_of(account_id)))
        return [state, load]
