"""Auth's numbers for Prometheus, read when they are asked for. No label comes from a caller."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.auth.authorize import Authorizer
from services.auth.kept_keys import KeptKeys
from services.auth.limit_desk import OUTCOMES, Figures
from services.auth.limit_windows import Kind
from services.auth.wrong_keys import WrongKeys


class AuthCollector(Collector):
    """What the look-ups and the leases of limits are like."""

    def __init__(self, *, authorizer: Authorizer, kept: KeptKeys, wrong: WrongKeys, limits: Figures) -> None:
        self._authorizer, self._kept, self._wrong, self._limits = authorizer, kept, wrong, limits

    def collect(self) -> Iterable[Metric]:
        """Well-formed keys asked about, look-ups made for them, and keys kept."""
        asked = CounterMetricFamily("tollbridge_auth_keys_asked", "Well-formed keys that were asked about.")
        asked.add_metric([], float(self._authorizer.asked))
        looked_up = CounterMetricFamily("tollbridge_auth_look_ups", "Look-ups in the database.")
        looked_up.add_metric([], float(self._authorizer.looked_up))
        refused = CounterMetricFamily(
            "tollbridge_auth_look_ups_refused", "Look-ups not made for addresses that sent too many wrong keys."
        )
        refused.add_metric([], float(self._wrong.refused))
        kept = GaugeMetricFamily("tollbridge_auth_kept_keys", "Keys kept in memory.")
        kept.add_metric([], float(len(self._kept)))
        return [asked, looked_up, refused, kept, *self._leases()]

    def _leases(self) -> Iterable[Metric]:
        asks = CounterMetricFamily(
            "tollbridge_auth_limit_asks", "Asks for units of a limit.", labels=["kind", "outcome"]
        )
        held = GaugeMetricFamily(
            "tollbridge_auth_limit_units_held", "Units that spenders hold, over all replicas.", labels=["kind"]
        )
        for kind in Kind:
            for outcome in OUTCOMES:
                asks.add_metric([kind.name.lower(), outcome], float(self._limits.asks[kind, outcome]))
            held.add_metric([kind.name.lower()], float(self._limits.held.get(kind, 0)))
        ended = CounterMetricFamily("tollbridge_auth_limit_spenders_ended", "Spenders whose leases were freed.")
        ended.add_metric([], float(self._limits.ended_spenders))
        return [asks, held, ended]
