"""How long an attempt may wait for its first byte, where another account stands ready and where none does."""

import dataclasses

import pytest

from chassis.ids import uuid7
from chassis.rpc import CallContext
from services.router.asked import End
from services.router.attempts import Attempt
from services.router.breaker import PROBE_SHARE, TOLERATED_FAILURES, Verdict
from services.router.decide import TIMED_OUT
from services.router.patience import HASTY, LEAST_S, SHARE, Patience
from services.router.registry import Timeouts
from tests.unit.router.pair import Pair, end, handler
from tests.unit.router.test_spread import Clock, accounts, clock, decided
from tollbridge.router.v1 import router_pb2 as pb

__all__ = ["clock"]
TIMEOUTS = Timeouts(first_byte_s=60.0)


def first_byte_s(patience: Patience, *, category: str = "chat", spare: bool = True, share: float = 1.0) -> float:
    return patience.first_byte_s("a", TIMEOUTS, category=category, spare=spare, share=share)


def test_an_attempt_leaves_time_for_another_account_where_one_is_well() -> None:
    """Whoever must be served elsewhere has waited for less than one attempt may take; else it has all its time."""
    patience = Patience()
    assert first_byte_s(patience) == SHARE * 60
    assert first_byte_s(patience, spare=False) == 60
    assert first_byte_s(patience, spare=False, share=0.125) == 60
    assert first_byte_s(patience, share=0.125) == 7.5


@pytest.mark.parametrize("category", ["image", "speech", "transcription", "video"])
def test_what_is_made_and_paid_as_a_whole_keeps_all_its_time(category: str) -> None:
    """Giving it up early would pay for it twice."""
    assert category not in HASTY
    assert first_byte_s(Patience(), category=category) == 60
    assert first_byte_s(Patience(), category=category, share=0.125) == 60


def test_nothing_is_given_up_within_what_answers_lately_took() -> None:
    """Nor is a probe, nor within what any answer takes; a hundred quick answers make a slow one forgotten."""
    patience = Patience()
    patience.answered("a", first_byte_s=10.0)
    assert first_byte_s(patience, share=0.125) == 15
    patience.answered("a", first_byte_s=36.0)
    assert first_byte_s(patience) == 54
    patience.answered("a", first_byte_s=40.0)
    assert first_byte_s(patience) == 60
    for _ in range(300):
        patience.answered("a", first_byte_s=0.01)
    assert first_byte_s(patience) == SHARE * 60
    assert first_byte_s(patience, share=0.001) == pytest.approx(LEAST_S, abs=0.2)
    patience.forget_all_but(frozenset())
    assert patience._usual_s == {}


def timed_out(attempt: Attempt) -> End:
    return dataclasses.replace(end(attempt.id, Verdict.FAILED), name=TIMED_OUT)


async def test_an_attempt_that_another_account_can_follow_is_given_up_earlier(pair: Pair, clock: Clock) -> None:
    """One on the only account has all its time, and so has one whose successors are in trouble too."""
    full_s = Timeouts().first_byte_s
    assert [each.first_byte_s for each in await decided(pair, 1)] == [SHARE * full_s]
    assert [each.first_byte_s for each in await decided(pair, 1, "free")] == [full_s]
    for attempt in await decided(pair, 2, "narrow"):
        assert attempt.first_byte_s == SHARE * full_s
        await pair.one.decider.finish(end(attempt.id, Verdict.RATE_LIMITED, retry_after_s=30))
    if len({pair.one.decider._breaker.state(each, now_s=clock.now_s) for each in ("a1", "a2")}) == 1:
        assert [each.first_byte_s for each in await decided(pair, 1)] == [full_s]


async def test_the_probe_of_an_account_that_hung_is_given_up_first(pair: Pair, clock: Clock) -> None:
    """It gets a part of its time where others are well, and twice as much the next time."""
    hanging = await decided(pair, TOLERATED_FAILURES)
    clock.now_s += 45
    for attempt in hanging:
        await pair.one.decider.finish(timed_out(attempt))
    for share in (PROBE_SHARE, 2 * PROBE_SHARE):
        clock.now_s += pair.one.decider._breaker.rests_for_s("b1", now_s=clock.now_s)
        [probe, other] = await decided(pair, 2)
        assert (accounts([probe]), probe.first_byte_s) == (["b1"], share * Timeouts().first_byte_s)
        assert other.target.account.id != "b1"
        clock.now_s += probe.first_byte_s
        await pair.one.decider.finish(timed_out(probe))


async def test_a_decision_tells_how_long_to_wait_and_an_end_how_long_it_took(pair: Pair) -> None:
    """Over the wire: the next one waits for longer than that."""
    request = pb.DecideRequest(model="both", operation="chat", request_id=str(uuid7()), spender=str(uuid7()))
    context = CallContext(caller="edge", timeout_s=5, traceparent="")
    for expected_s, took_s in ((SHARE * 60, 36.0), (54.0, 0.0)):
        request.attempt_id = str(uuid7())
        decision = await handler(pair.one, "Decide")(request, context)
        assert isinstance(decision, pb.DecideResponse)
        assert decision.timeouts.first_byte_s == expected_s
        outcome = pb.AttemptOutcome(
            attempt_id=decision.attempt_id, outcome=pb.OUTCOME_SUCCESS, provider_account_id="b1", first_byte_s=took_s
        )
        finish = pb.FinishAttemptRequest(request_id=request.request_id, outcome=outcome)
        await handler(pair.one, "FinishAttempt")(finish, context)
