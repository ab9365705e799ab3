"""Auth's numbers for Prometheus, read when they are asked for. No label comes from a caller."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.auth.authorize import Authorizer
from services.auth.kept_keys import KeptKeys


class AuthCollector(Collector):
    """What the look-ups are like."""

    def __init__(self, *, authorizer: Authorizer, kept: KeptKeys) -> None:
        self._authorizer, self._kept = authorizer, kept

    def collect(self) -> Iterable[Metric]:
        """Well-formed keys asked about, look-ups made for them, and keys kept."""
        asked = CounterMetricFamily("tollbridge_auth_keys_asked", "Well-formed keys that were asked about.")
        asked.add_metric([], float(self._authorizer.asked))
        looked_up = CounterMetricFamily("tollbridge_auth_look_ups", "Look-ups in the database.")
        looked_up.add_metric([], float(self._authorizer.looked_up))
        kept = GaugeMetricFamily("tollbridge_auth_kept_keys", "Keys kept in memory.")
        kept.add_metric([], float(len(self._kept)))
        return [asked, looked_up, kept]
