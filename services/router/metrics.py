"""Router's numbers for Prometheus. Labels come from the config file only, so a caller can't make new series."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.errors import TollbridgeError
from services.router.breaker import Breaker, Turn, Verdict
from services.router.registry import Registry

STATES = ("ready", "cooling", "broken")
LOOK_S = 5.0


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


class AccountTurns:
    """Counts the rests of accounts, and logs when one begins and when its account is found well again.

    A refused credential is an error: it lasts until somebody pays, or puts another key into the config file.
    """

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "tollbridge_router_account_rests",
            "Rests that provider accounts began here, by what they began with.",
            ["account", "reason"],
            registry=registry,
        )
        self._log = structlog.get_logger()

    def tell(self, turn: Turn) -> None:
        """An account has turned."""
        if turn.verdict is Verdict.GOOD:
            self._log.info("account_well", account=turn.account_id)
            return
        self._counter.labels(turn.account_id, turn.verdict.value).inc()
        say = self._log.error if turn.verdict is Verdict.CREDENTIAL_REFUSED else self._log.warning
        say("account_rests", account=turn.account_id, reason=turn.verdict.value, rests_for_s=round(turn.rests_for_s))


class SlotWatch:
    """Slots taken by account, over all replicas, as of the last look. Its owner runs `run()` as a task."""

    def __init__(self, *, in_use: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
        self._in_use = in_use
        self.now: Mapping[str, int] = {}
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Looks every few seconds until cancelled. While the database is away it is as it was."""
        while True:
            try:
                await self.look()
            except TollbridgeError as error:
                self._log.warning("slots_not_read", code=error.code.value)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Looks once. Raises UNAVAILABLE."""
        self.now = await self._in_use()


class PoolCollector(Collector):
    """States of accounts, read when they are asked for, and the slots of those that have a number of them.

    Slots in use are the same in every replica, so take the maximum over them.
    """

    def __init__(
        self,
        *,
        models: Callable[[], Registry],
        breaker: Breaker,
        load_of: Callable[[str], int],
        slots: SlotWatch,
        waiting: Callable[[], int],
    ) -> None:
        self._models, self._breaker, self._load_of = models, breaker, load_of
        self._slots, self._waiting = slots, waiting

    def collect(self) -> Iterable[Metric]:
        """One sample per account and state, its attempts, errors and slots, and who waits for any."""
        state = GaugeMetricFamily(
            "tollbridge_router_account_state", "1 for the state it is in.", labels=["account", "state"]
        )
        load = GaugeMetricFamily(
            "tollbridge_router_account_attempts", "Running attempts decided by this replica.", labels=["account"]
        )
        errors = GaugeMetricFamily(
            "tollbridge_router_account_error_rate",
            "Failures per attempt of the last minute, of those this replica learnt from.",
            labels=["account"],
        )
        now_s = time.monotonic()
        for account_id in self._models().accounts:
            current = self._breaker.state(account_id, now_s=now_s)
            for name in STATES:
                state.add_metric([account_id, name], float(name == current))
            load.add_metric([account_id], float(self._load_of(account_id)))
            errors.add_metric([account_id], self._breaker.error_rate(account_id, now_s=now_s))
        waiting = GaugeMetricFamily("tollbridge_router_waiting", "Requests that wait for a slot in this replica.")
        waiting.add_metric([], float(self._waiting()))
        return [state, load, errors, waiting, *self._of_slots()]

    def _of_slots(self) -> Iterable[Metric]:
        total = GaugeMetricFamily("tollbridge_router_slots", "Slots of the account.", labels=["account"])
        in_use = GaugeMetricFamily(
            "tollbridge_router_slots_in_use", "Slots taken, over all replicas.", labels=["account"]
        )
        for account_id, slots in self._models().slots.items():
            total.add_metric([account_id], float(slots))
            in_use.add_metric([account_id], float(self._slots.now.get(account_id, 0)))
        return total, in_use
