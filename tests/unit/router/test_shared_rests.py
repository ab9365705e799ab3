"""What one replica of router learns of an account the other one knows. Two replicas on a real PostgreSQL."""

from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from chassis.rpc import CallContext
from services.router.breaker import TOLERATED_FAILURES, Verdict
from services.router.parts import Parts, build
from tests.patience import BUSY_S
from tests.unit.router.pair import CONFIG, Pair, ask, end, handler
from tollbridge.router.v1 import router_pb2 as pb

CONTEXT = CallContext(caller="edge", timeout_s=5, traceparent="")


async def state(parts: Parts, account_id: str = "b1") -> str:
    """What that replica shows."""
    answer = await handler(parts, "ListAccounts")(pb.ListAccountsRequest(), CONTEXT)
    assert isinstance(answer, pb.ListAccountsResponse)
    return {each.id: each.state for each in answer.accounts}[account_id]


async def ends(parts: Parts, verdict: Verdict, **more: object) -> None:
    """An attempt on b1 that ends so."""
    attempt = await parts.decider.decide(ask("free"))
    await parts.decider.finish(end(attempt.id, verdict, **more))


async def exchange(*replicas: Parts) -> None:
    for parts in replicas:
        await parts.rests.exchange()


async def started(pair: Pair, path: Path) -> Parts:
    """A third replica that starts now."""
    parts = build(pool=pair.pool, config_path=path, everybody=frozenset({"edge"}), metrics=CollectorRegistry())
    await parts.watch.load_first()
    await parts.rests.know()
    return parts


async def test_a_rest_and_its_end_reach_the_other_replica(pair: Pair) -> None:
    """A 429's pause is kept there too, and a success after it ends the trial of both."""
    await ends(pair.one, Verdict.RATE_LIMITED, retry_after_s=40.0)
    await exchange(pair.one, pair.two)
    assert [await state(parts) for parts in (pair.one, pair.two)] == ["cooling", "cooling"]
    for parts in (pair.one, pair.two):  # forty seconds later
        parts.decider._breaker._accounts["b1"].rests_until_s -= 40
    await ends(pair.two, Verdict.GOOD)
    await exchange(pair.two, pair.one)
    assert not pair.one.decider._breaker._accounts["b1"].is_open
    assert await state(pair.one) == "ready"


async def test_a_rest_goes_on_growing_in_whichever_replica(pair: Pair) -> None:
    """What one has doubled the other doubles again, at the first failure of its own."""
    for _ in range(TOLERATED_FAILURES + 1):
        await ends(pair.one, Verdict.FAILED)
    await exchange(pair.one, pair.two)
    breaker = pair.two.decider._breaker
    breaker._accounts["b1"].rests_until_s -= 60
    await ends(pair.two, Verdict.FAILED)
    now_s = pair.two.decider._clock()
    assert breaker.rests_for_s("b1", now_s=now_s) == pytest.approx(2, abs=0.5)


async def test_of_two_rests_the_longer_lasts(pair: Pair) -> None:
    """Whoever writes last."""
    for parts, pause_s in ((pair.one, 50.0), (pair.two, 5.0)):
        await ends(parts, Verdict.RATE_LIMITED, retry_after_s=pause_s)
    await exchange(pair.one, pair.two, pair.one)
    for parts in (pair.one, pair.two):
        rests_s = parts.decider._breaker.rests_for_s("b1", now_s=parts.decider._clock())
        assert rests_s == pytest.approx(50, abs=5)


async def test_a_replica_that_starts_knows_who_rests(pair: Pair) -> None:
    """A pause that a provider asked for outlives every restart."""
    await ends(pair.one, Verdict.RATE_LIMITED, retry_after_s=40.0)
    await exchange(pair.one)
    assert await state(await started(pair, pair.path)) == "cooling"


async def test_a_refused_credential_is_tried_after_a_start_and_a_new_one_at_once(pair: Pair, tmp_path: Path) -> None:
    """Who restarts may have paid the bill, and who changes the key means another one; else its rest would last."""
    await ends(pair.one, Verdict.CREDENTIAL_REFUSED)
    await exchange(pair.one, pair.two)
    assert await state(pair.two) == "broken"
    restarted = await started(pair, pair.path)
    await ends(restarted, Verdict.CREDENTIAL_REFUSED)
    assert await state(restarted) == "broken"
    changed = tmp_path / "changed.yaml"
    changed.write_text(CONFIG.replace("PRICE", "1").replace("canary-b1", "canary-new"))
    other = await started(pair, changed)
    assert "b1" not in other.decider._breaker._accounts


async def test_an_exchange_without_news_changes_nothing(pair: Pair, schema: str) -> None:
    """A replica doesn't hear itself: the probe that runs after a rest is still the one whose success counts."""
    await ends(pair.one, Verdict.RATE_LIMITED, retry_after_s=40.0)
    await exchange(pair.one)
    health = pair.one.decider._breaker._accounts["b1"]
    before = (health.rest_began_s, health.rests_until_s)
    await exchange(pair.one, pair.two, pair.two, pair.one)
    assert (health.rest_began_s, health.rests_until_s) == before
    with psycopg.connect(schema) as connection:
        assert connection.execute("SELECT account_id, revision FROM router.rests").fetchall() == [("b1", 1)]


async def test_what_could_not_be_told_is_told_when_the_database_is_back(pair: Pair) -> None:
    """Meanwhile each replica goes by what it learnt itself."""
    await ends(pair.one, Verdict.RATE_LIMITED, retry_after_s=40.0)
    held = [await pair.pool.getconn(timeout=BUSY_S) for _ in range(pair.pool.max_size)]
    timeout_s, pair.pool.timeout = pair.pool.timeout, 0.05
    await exchange(pair.one)
    for connection in held:
        await pair.pool.putconn(connection)
    pair.pool.timeout = timeout_s
    assert await state(pair.one) == "cooling"
    await exchange(pair.one, pair.two)
    assert await state(pair.two) == "cooling"
