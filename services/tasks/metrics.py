"""Tasks' numbers for Prometheus, read when they are asked for. No label comes from a caller."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.config_state import ConfigState
from services.tasks.ends import Ends
from services.tasks.worker import Worker


class TasksCollector(Collector):
    """What becomes of jobs here, and which config is in use."""

    def __init__(self, *, ends: Ends, worker: Worker, config_state: Callable[[], ConfigState]) -> None:
        self._ends, self._worker, self._config_state = ends, worker, config_state

    def collect(self) -> Iterable[Metric]:
        """Jobs ended by this process, jobs that it runs now, and its config."""
        ended = CounterMetricFamily("tollbridge_tasks_ended", "Jobs ended by this process.", labels=["status"])
        for status, count in self._ends.counts.items():
            ended.add_metric([status.value], float(count))
        running = GaugeMetricFamily("tollbridge_tasks_running", "Jobs that this process runs now.")
        running.add_metric([], float(self._worker.running))
        state = self._config_state()
        config = GaugeMetricFamily("tollbridge_config_in_use", "1, with the hash as label.", labels=["hash"])
        config.add_metric([state.hash], 1.0)
        refused = GaugeMetricFamily("tollbridge_config_refused", "1 while the file as it is now is refused.")
        refused.add_metric([], float(bool(state.error)))
        return [ended, running, config, refused]
