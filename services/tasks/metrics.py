"""Tasks' numbers for Prometheus, read when they are asked for. No label comes from a caller."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.tasks.ends import Ends
from services.tasks.worker import Worker


class TasksCollector(Collector):
    """What becomes of jobs here."""

    def __init__(self, *, ends: Ends, worker: Worker) -> None:
        self._ends, self._worker = ends, worker

    def collect(self) -> Iterable[Metric]:
        """Jobs ended by this process, jobs that it runs now, and answers whose usage it did not believe."""
        ended = CounterMetricFamily("tollbridge_tasks_ended", "Jobs ended by this process.", labels=["status"])
        for status, count in self._ends.counts.items():
            ended.add_metric([status.value], float(count))
        running = GaugeMetricFamily("tollbridge_tasks_running", "Jobs that this process runs now.")
        running.add_metric([], float(self._worker.running))
        implausible = CounterMetricFamily(
            "tollbridge_implausible_usage",
            "Answers whose usage or cost can't be, by provider: ours took its place",
            labels=["provider"],
        )
        for provider, count in self._worker.implausible.items():
            implausible.add_metric([provider], float(count))
        return [ended, running, implausible]
