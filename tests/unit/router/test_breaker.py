"""When accounts rest, and when they are called again."""

import pytest

from services.router.breaker import MAX_MODELS, TOLERATED_FAILURES, Breaker, Turn, Verdict


def fail(breaker: Breaker, verdict: Verdict, *, now_s: float, retry_after_s: float = 0.0) -> float:
    """One attempt that begins and ends at `now_s`; returns the rest that follows."""
    breaker.learn("a", verdict, started_s=now_s, now_s=now_s, retry_after_s=retry_after_s)
    return breaker.rests_for_s("a", now_s=now_s)


def test_a_rate_limit_rests_for_its_retry_after() -> None:
    """The provider's own pause counts; other accounts are not touched."""
    breaker = Breaker()
    assert fail(breaker, Verdict.RATE_LIMITED, now_s=100, retry_after_s=12) == 12
    assert not breaker.is_ready("a", now_s=111.9)
    assert breaker.is_ready("a", now_s=112)
    assert breaker.is_ready("b", now_s=100)
    assert breaker.state("a", now_s=100) == "cooling"


def test_failures_rest_once_they_repeat_and_longer_each_time() -> None:
    """The first failures are tolerated, then pauses double up to a minute."""
    breaker, now_s, pauses = Breaker(), 0.0, []
    for _ in range(TOLERATED_FAILURES + 8):
        pause = fail(breaker, Verdict.FAILED, now_s=now_s)
        pauses.append(pause)
        now_s += pause
    assert pauses == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_success_clears_what_failed() -> None:
    """After a good attempt the count begins anew."""
    breaker = Breaker()
    for _ in range(TOLERATED_FAILURES):
        fail(breaker, Verdict.FAILED, now_s=0)
    fail(breaker, Verdict.GOOD, now_s=1)
    assert fail(breaker, Verdict.FAILED, now_s=2) == 0


def test_attempts_that_fail_together_are_one_trouble() -> None:
    """Failures of attempts begun before the rest don't make it grow."""
    breaker = Breaker()
    for _ in range(100):
        breaker.learn("a", Verdict.FAILED, started_s=0.0, now_s=1.0)
    assert breaker.rests_for_s("a", now_s=1.0) == 1


def test_a_refused_credential_rests_longest_and_says_so() -> None:
    """401, 402 and 403 rest the account for minutes, and it shows as broken."""
    breaker = Breaker()
    assert fail(breaker, Verdict.CREDENTIAL_REFUSED, now_s=0) == 300
    assert breaker.state("a", now_s=1) == "broken"
    assert fail(breaker, Verdict.CREDENTIAL_REFUSED, now_s=300) == 600


def test_a_rest_is_told_when_it_begins_and_once_its_account_is_well_again() -> None:
    """Not for each attempt that fails with it, and not for a model that an account does not know."""
    told: list[Turn] = []
    breaker = Breaker(tell=told.append)
    breaker.learn("a", Verdict.MODEL_UNKNOWN, started_s=0, now_s=0, model="m")
    for _ in range(3):
        breaker.learn("a", Verdict.RATE_LIMITED, started_s=0, now_s=1, retry_after_s=20)
    breaker.learn("a", Verdict.CREDENTIAL_REFUSED, started_s=2, now_s=2)
    fail(breaker, Verdict.GOOD, now_s=400)
    fail(breaker, Verdict.GOOD, now_s=401)
    assert [(turn.verdict, turn.rests_for_s) for turn in told] == [
        (Verdict.RATE_LIMITED, 20),
        (Verdict.CREDENTIAL_REFUSED, 300),
        (Verdict.GOOD, 0),
    ]


@pytest.mark.parametrize("verdict", [Verdict.NOTHING, Verdict.GOOD])
def test_what_is_not_the_accounts_fault_costs_it_nothing(verdict: Verdict) -> None:
    """A wrong request or a client that left says nothing about the account."""
    breaker = Breaker()
    for _ in range(10):
        assert fail(breaker, verdict, now_s=0) == 0
    assert breaker.error_rate("a", now_s=0) == 0


def test_the_error_rate_is_of_the_last_minute() -> None:
    """Failures per attempt, forgotten after a minute."""
    breaker = Breaker()
    fail(breaker, Verdict.FAILED, now_s=0)
    fail(breaker, Verdict.GOOD, now_s=50)
    assert breaker.error_rate("a", now_s=50) == 0.5
    assert breaker.error_rate("a", now_s=70) == 0


def test_an_unknown_model_rests_its_account_for_that_model_alone() -> None:
    """Three 404s: the account goes on serving its other models, and this one again after a success."""
    breaker = Breaker()
    for at_s in (0.0, 1.0, 2.0):
        breaker.learn("a", Verdict.MODEL_UNKNOWN, started_s=at_s, now_s=at_s, model="gone")
    assert not breaker.is_ready("a", now_s=2.5, model="gone")
    assert breaker.is_ready("a", now_s=2.5, model="other")
    assert breaker.state("a", now_s=2.5) == "ready"
    breaker.learn("a", Verdict.GOOD, started_s=3.0, now_s=3.0, model="gone")
    assert breaker.is_ready("a", now_s=3.0, model="gone")


def test_models_that_callers_make_up_are_not_kept_without_end() -> None:
    """Below a wildcard any name may be asked for: the oldest that the provider didn't know are forgotten."""
    breaker = Breaker()
    for number in range(3 * MAX_MODELS):
        for _ in range(3):
            breaker.learn("a", Verdict.MODEL_UNKNOWN, started_s=0.0, now_s=0.0, model=f"made-up-{number}")
    resting = [
        number for number in range(3 * MAX_MODELS) if not breaker.is_ready("a", now_s=0.5, model=f"made-up-{number}")
    ]
    assert resting == list(range(2 * MAX_MODELS, 3 * MAX_MODELS))


def test_a_model_that_answers_is_rested_by_nobody_who_asks_it_for_something_else() -> None:
    """A provider's 404 may be about the endpoint; only of a model that has not answered for an hour is it believed."""
    breaker = Breaker()
    breaker.learn("a", Verdict.GOOD, started_s=0.0, now_s=0.0, model="judge")
    for at_s in range(1, 20):
        breaker.learn("a", Verdict.MODEL_UNKNOWN, started_s=float(at_s), now_s=float(at_s), model="judge")
    assert breaker.is_ready("a", now_s=20.0, model="judge")
    for at_s in range(4000, 4010):
        breaker.learn("a", Verdict.MODEL_UNKNOWN, started_s=float(at_s), now_s=float(at_s), model="judge")
    assert not breaker.is_ready("a", now_s=4009.5, model="judge")
