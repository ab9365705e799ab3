"""What an operator is told of provider accounts: in the metrics, and by one line of the log."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.router.breaker import Breaker, Verdict
from services.router.metrics import AccountTurns, PoolCollector, SlotWatch
from tests.unit.router.pair import Pair


def test_a_refused_credential_is_one_error_in_the_log_and_its_end_another_line() -> None:
    """By the account's name; attempts that fail with it add nothing."""
    registry = CollectorRegistry()
    with capture_logs() as logs:
        breaker = Breaker(tell=AccountTurns(registry=registry).tell)
        for _ in range(5):
            breaker.learn("alpha-a", Verdict.CREDENTIAL_REFUSED, started_s=0, now_s=1)
        breaker.learn("alpha-a", Verdict.GOOD, started_s=400, now_s=401)
    assert [(line["event"], line["account"], line["log_level"]) for line in logs] == [
        ("account_rests", "alpha-a", "error"),
        ("account_well", "alpha-a", "info"),
    ]
    assert (logs[0]["reason"], logs[0]["rests_for_s"]) == ("credential_refused", 300)
    labels = {"account": "alpha-a", "reason": "credential_refused"}
    assert registry.get_sample_value("tollbridge_router_account_rests_total", labels) == 1


async def test_the_slots_of_every_limited_account_are_shown(pair: Pair) -> None:
    """How many it has by the config, and how many are taken over all replicas."""
    known = pair.one.decider.known
    limited = next(iter(known.slots))

    async def in_use() -> Mapping[str, int]:
        return {limited: 2}

    watch, registry = SlotWatch(in_use=in_use), CollectorRegistry()
    registry.register(
        PoolCollector(models=lambda: known, breaker=Breaker(), load_of=lambda _: 1, slots=watch, waiting=lambda: 3)
    )
    await watch.look()
    assert registry.get_sample_value("tollbridge_router_slots", {"account": limited}) == known.slots[limited]
    assert registry.get_sample_value("tollbridge_router_slots_in_use", {"account": limited}) == 2
    assert registry.get_sample_value("tollbridge_router_waiting") == 3
    shown = {s.labels["account"] for m in registry.collect() for s in m.samples if s.name == "tollbridge_router_slots"}
    assert shown == set(known.slots)
