"""Auth's numbers for Prometheus, read when they are asked for. No label comes from a caller."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.config_state import ConfigState
from services.auth.authorize import Authorizer
from services.auth.kept_keys import KeptKeys


class AuthCollector(Collector):
    """What the look-ups and the config are like."""

    def __init__(self, *, authorizer: Authorizer, kept: KeptKeys, config_state: Callable[[], ConfigState]) -> None:
        self._authorizer, self._kept, self._config_state = authorizer, kept, config_state

    def collect(self) -> Iterable[Metric]:
        """Well-formed keys asked about, look-ups made for them, keys kept, and which config is in use."""
        asked = CounterMetricFamily("tollbridge_auth_keys_asked", "Well-formed keys that were asked about.")
        asked.add_metric([], float(self._authorizer.asked))
        looked_up = CounterMetricFamily("tollbridge_auth_look_ups", "Look-ups in the database.")
        looked_up.add_metric([], float(self._authorizer.looked_up))
        kept = GaugeMetricFamily("tollbridge_auth_kept_keys", "Keys kept in memory.")
        kept.add_metric([], float(len(self._kept)))
        state = self._config_state()
        config = GaugeMetricFamily("tollbridge_config_in_use", "1, with the hash as label.", labels=["hash"])
        config.add_metric([state.hash], 1.0)
        refused = GaugeMetricFamily("tollbridge_config_refused", "1 while the file as it is now is refused.")
        refused.add_metric([], float(bool(state.error)))
        return [asked, looked_up, kept, config, refused]
