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
    """States of accounts and of the config, read when they are asked for."""

    def __init__(
        self,
        *,
        models: Callable[[], Registry],
        breaker: Breaker,
        load_of: Callable[[str], int],
        config_state: Callable[[], tuple[str, str]],
    ) -> None:
        self._models, self._breaker, self._load_of, self._config_state = models, breaker, load_of, config_state

    def collect(self) -> Iterable[Metric]:
        """One sample per account and state, the running attempts, the config's hash and whether one was refused."""
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
        config_hash, error = self._config_state()
        config = GaugeMetricFamily("tollbridge_config_in_use", "1, with the hash as label.", labels=["hash"])
        config.add_metric([config_hash], 1.0)
        refused = GaugeMetricFamily("tollbridge_config_refused", "1 while the file as it is now is refused.")
        refused.add_metric([], float(bool(error)))
        return [state, load, config, refused]
