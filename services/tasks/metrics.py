"""Tasks' numbers for Prometheus, read when they are asked for. No label comes from a caller."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.tasks.ends import Ends
from services.tasks.work.backlog import BacklogWatch
from services.tasks.work.shift import Shift
from services.tasks.work.worker import Worker


class TasksCollector(Collector):
    """What becomes of jobs here, and what waits anywhere."""

    def __init__(self, *, ends: Ends, worker: Worker, shifts: Mapping[str, Shift], backlog: BacklogWatch) -> None:
        self._ends, self._worker, self._shifts, self._backlog = ends, worker, shifts, backlog

    def collect(self) -> Iterable[Metric]:
        """Jobs ended by this process, jobs that it runs now, answers whose usage it did not believe, and the queue."""
        ended = CounterMetricFamily("tollbridge_tasks_ended", "Jobs ended by this process.", labels=["status"])
        for status, count in self._ends.counts.items():
            ended.add_metric([status.value], float(count))
        running = GaugeMetricFamily("tollbridge_tasks_running", "Jobs that this process runs now.", labels=["kind"])
        for kind, shift in self._shifts.items():
            running.add_metric([kind], float(shift.running))
        implausible = CounterMetricFamily(
            "tollbridge_implausible_usage",
            "Answers whose usage or cost can't be, by provider: ours took its place",
            labels=["provider"],
        )
        for provider, count in self._worker.implausible.items():
            implausible.add_metric([provider], float(count))
        return [ended, running, implausible, *self._queue()]

    def _queue(self) -> Iterable[Metric]:
        """The same in every process, so take the maximum over them."""
        waiting = GaugeMetricFamily(
            "tollbridge_tasks_waiting", "Jobs that wait for a worker, in the whole system.", labels=["kind"]
        )
        oldest = GaugeMetricFamily(
            "tollbridge_tasks_oldest_waiting_seconds", "Since when the oldest of them waits.", labels=["kind"]
        )
        for kind, backlog in self._backlog.now.items():
            waiting.add_metric([kind], float(backlog.jobs))
            oldest.add_metric([kind], backlog.oldest_s)
        return waiting, oldest
