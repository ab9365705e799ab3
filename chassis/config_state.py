"""Which configuration a process runs; the RPC `GetConfigState` and the metrics that tell it, alike in every service."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.config import ConfigWatch
from chassis.rpc import CallContext, Handler

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigState:
    """Hash and time of what runs, and why the file as it is now doesn't; all empty without a file."""

    hash: str = ""
    loaded_at_us: int = 0
    error: str = ""

    @classmethod
    def of(cls, watch: ConfigWatch[T] | None) -> "ConfigState":
        """What this watch keeps; None is a process without a file."""
        if watch is None:
            return cls()
        return cls(hash=watch.hash, loaded_at_us=watch.loaded_at_us, error=watch.error)


class ConfigCollector(Collector):
    """The running config's hash, and whether the file as it is now is refused."""

    def __init__(self, state: Callable[[], ConfigState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """As it is at this moment."""
        state = self._state()
        config = GaugeMetricFamily("tollbridge_config_in_use", "1, with the hash as label.", labels=["hash"])
        config.add_metric([state.hash], 1.0)
        refused = GaugeMetricFamily("tollbridge_config_refused", "1 while the file as it is now is refused.")
        refused.add_metric([], float(bool(state.error)))
        return [config, refused]


def config_state_handler(
    response: Callable[..., Message], state: Callable[[], ConfigState], callers: frozenset[str]
) -> Handler:
    """Answers GetConfigState with `response`, the service's own message of the same three fields."""

    async def run(_request: Message, _: CallContext) -> Message:
        now = state()
        return response(hash=now.hash, loaded_at_us=now.loaded_at_us, error=now.error)

    return Handler(run=run, callers=callers)
