"""How an account comes back after its rest, and how one that fails half the time gets one."""

import random

from hypothesis import given
from hypothesis import strategies as st

from services.router.breaker import (
    FAILURE_MAX_S,
    PROBE_MARGIN_S,
    PROBE_SHARE,
    RATE_LEAST,
    RETRY_AFTER_MAX_S,
    TOLERATED_FAILURES,
    Breaker,
    Rest,
    Standing,
    Verdict,
)

FIRST_BYTE_S = 2.0


def rested(*, now_s: float = 0.0) -> Breaker:
    """The account "a" rests from now on, for a second."""
    breaker = Breaker()
    for _ in range(TOLERATED_FAILURES + 1):
        breaker.learn("a", Verdict.FAILED, started_s=now_s, now_s=now_s)
    assert breaker.rests_for_s("a", now_s=now_s) == 1
    return breaker


def begin(breaker: Breaker, attempt_id: str, *, now_s: float) -> None:
    breaker.begin("a", attempt_id=attempt_id, now_s=now_s, first_byte_s=FIRST_BYTE_S)


def test_after_a_rest_one_attempt_probes_and_a_success_lets_all_back() -> None:
    """On trial until somebody probes it, probed until that one has ended, and sound after its success."""
    breaker = rested()
    assert breaker.standing("a", now_s=0.9) is Standing.RESTING
    assert breaker.standing("a", now_s=1.0) is Standing.ON_TRIAL
    begin(breaker, "probe", now_s=1.0)
    begin(breaker, "another", now_s=1.0)
    assert breaker.standing("a", now_s=1.1) is Standing.PROBED
    breaker.learn("a", Verdict.GOOD, started_s=1.0, now_s=1.2, attempt_id="probe")
    assert breaker.standing("a", now_s=1.2) is Standing.SOUND


def test_a_probe_that_fails_doubles_the_rest() -> None:
    """One failure is enough: nothing is tolerated of an account on trial."""
    breaker, now_s, rests = rested(), 0.0, []
    for number in range(8):
        now_s += breaker.rests_for_s("a", now_s=now_s)
        begin(breaker, str(number), now_s=now_s)
        breaker.learn("a", Verdict.FAILED, started_s=now_s, now_s=now_s, attempt_id=str(number))
        rests.append(breaker.rests_for_s("a", now_s=now_s))
    assert rests == [2, 4, 8, 16, 32, 60, 60, 60]


def test_a_probe_that_says_nothing_lets_another_probe() -> None:
    """Its client left, or its end never came: then its time to the first byte and a margin are waited for."""
    breaker = rested()
    begin(breaker, "left", now_s=1.0)
    breaker.learn("a", Verdict.NOTHING, started_s=1.0, now_s=1.5, attempt_id="left")
    assert breaker.standing("a", now_s=1.5) is Standing.ON_TRIAL
    begin(breaker, "lost", now_s=2.0)
    assert breaker.standing("a", now_s=2.0 + FIRST_BYTE_S + PROBE_MARGIN_S - 0.1) is Standing.PROBED
    assert breaker.standing("a", now_s=2.0 + FIRST_BYTE_S + PROBE_MARGIN_S) is Standing.ON_TRIAL


def test_a_rest_is_not_shorter_than_what_failed_took() -> None:
    """An account that made somebody wait for five seconds rests as long, but never for longer than a minute."""
    for waited_s, expected_s in ((0.5, 1.0), (5.0, 5.0), (500.0, FAILURE_MAX_S)):
        breaker = Breaker()
        for _ in range(TOLERATED_FAILURES + 1):
            breaker.learn("a", Verdict.FAILED, started_s=0.0, now_s=waited_s, waited_s=waited_s)
        assert breaker.rests_for_s("a", now_s=waited_s) == expected_s


def test_two_attempts_that_waited_in_vain_are_enough() -> None:
    """One is tolerated, where three other failures are needed."""
    breaker = Breaker()
    breaker.learn("a", Verdict.FAILED, started_s=0.0, now_s=2.0, waited_s=2.0)
    assert breaker.standing("a", now_s=2.0) is Standing.SOUND
    breaker.learn("a", Verdict.FAILED, started_s=0.1, now_s=2.1, waited_s=2.0)
    assert round(breaker.rests_for_s("a", now_s=2.1), 6) == 2


def hung() -> Breaker:
    """The account "a" made callers wait for four seconds, and rests for as long."""
    breaker = Breaker()
    for _ in range(TOLERATED_FAILURES):
        breaker.learn("a", Verdict.FAILED, started_s=0.0, now_s=4.0, waited_s=4.0)
    return breaker


def test_the_probe_of_an_account_that_hung_waits_shortly_at_first() -> None:
    """An eighth of its time, then twice as much each time, until it may wait as long as anybody."""
    breaker, now_s, shares = hung(), 4.0, []
    for number in range(5):
        now_s += breaker.rests_for_s("a", now_s=now_s)
        begin(breaker, str(number), now_s=now_s)
        begin(breaker, "another", now_s=now_s)
        assert breaker.share("a", attempt_id="another") == 1
        shares.append(breaker.share("a", attempt_id=str(number)))
        breaker.learn("a", Verdict.FAILED, started_s=now_s, now_s=now_s, attempt_id=str(number), waited_s=0.5)
    assert shares == [PROBE_SHARE, 2 * PROBE_SHARE, 4 * PROBE_SHARE, 1, 1]


def test_the_probe_of_an_account_that_failed_at_once_has_all_its_time() -> None:
    """And so it has where a rest of another kind follows one for hanging."""
    for breaker in (rested(), hung()):
        breaker.learn("a", Verdict.FAILED, started_s=10.0, now_s=10.0)
        now_s = 10.0 + breaker.rests_for_s("a", now_s=10.0)
        begin(breaker, "probe", now_s=now_s)
        assert breaker.share("a", attempt_id="probe") == 1


def test_an_account_that_fails_every_other_time_rests_longer_each_time() -> None:
    """Never three failures in a row, and successes in between: it rests all the same, and no success shortens that."""
    breaker, now_s, rests = Breaker(), 0.0, []
    while len(rests) < 4:
        for verdict in (Verdict.GOOD, Verdict.FAILED):
            now_s += 0.1
            breaker.learn("a", verdict, started_s=now_s, now_s=now_s)
        rest_s = breaker.rests_for_s("a", now_s=now_s)
        if rest_s:
            rests.append(rest_s)
            now_s += rest_s
            breaker.learn("a", Verdict.GOOD, started_s=now_s, now_s=now_s)
    assert [round(rest_s, 6) for rest_s in rests] == [1, 2, 4, 8]


def test_few_failures_among_many_successes_are_no_reason_to_rest() -> None:
    """One in four, for a long time."""
    breaker = Breaker()
    for number in range(40 * RATE_LEAST):
        verdict = Verdict.GOOD if number % 4 else Verdict.FAILED
        breaker.learn("a", verdict, started_s=number / 10, now_s=number / 10)
        assert breaker.standing("a", now_s=number / 10) is Standing.SOUND


def test_a_model_that_is_unknown_somewhere_is_probed_for_itself() -> None:
    """Other models of the account are as sound as before."""
    breaker = Breaker()
    for _ in range(TOLERATED_FAILURES + 1):
        breaker.learn("a", Verdict.MODEL_UNKNOWN, started_s=0.0, now_s=0.0, model="m")
    assert breaker.standing("a", now_s=1.0, model="m") is Standing.ON_TRIAL
    breaker.begin("a", attempt_id="probe", now_s=1.0, first_byte_s=FIRST_BYTE_S, model="m")
    assert breaker.standing("a", now_s=1.0, model="m") is Standing.PROBED
    assert breaker.standing("a", now_s=1.0, model="n") is Standing.SOUND


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_whatever_fails_probes_are_one_at_a_time_and_the_account_comes_back(seed: int, share: float) -> None:
    """In any order of ends: one probe runs, no rest is longer than a minute, and a good provider is used again."""
    source, breaker, now_s = random.Random(seed), Breaker(), 0.0
    running: dict[str, float] = {}
    probes: set[str] = set()
    for number in range(200):
        now_s += source.random() * 2
        for attempt_id in [each for each in running if source.random() < 0.5]:
            verdict = Verdict.FAILED if source.random() < share else Verdict.GOOD
            breaker.learn("a", verdict, started_s=running.pop(attempt_id), now_s=now_s, attempt_id=attempt_id)
            probes.discard(attempt_id)
        probes = {each for each in probes if now_s < running[each] + FIRST_BYTE_S + PROBE_MARGIN_S}
        standing = breaker.standing("a", now_s=now_s)
        if standing in (Standing.SOUND, Standing.RESTING):
            probes.clear()
        if standing is Standing.ON_TRIAL:
            assert not probes
            probes.add(str(number))
        if standing in (Standing.SOUND, Standing.ON_TRIAL):
            running[str(number)] = now_s
            begin(breaker, str(number), now_s=now_s)
        assert breaker.rests_for_s("a", now_s=now_s) <= FAILURE_MAX_S + 1e-6
    now_s += FAILURE_MAX_S + FIRST_BYTE_S + PROBE_MARGIN_S
    breaker.learn("a", Verdict.GOOD, started_s=now_s, now_s=now_s)
    assert breaker.standing("a", now_s=now_s) is Standing.SOUND


def test_what_one_replica_learns_another_hears() -> None:
    """A rest, its growth and its end; each is told once, and what was told in vain is told again."""
    one, two = rested(), Breaker()
    told = one.untold(now_s=0.25)
    assert one.untold(now_s=0.25) == []
    one.tell_again(told)
    [rest] = one.untold(now_s=0.5)
    assert rest == Rest(account_id="a", is_open=True, rests_for_s=0.5, pause_s=1, is_broken=False)
    two.hear(rest, now_s=100.0)
    assert two.rests_for_s("a", now_s=100.0) == 0.5
    two.learn("a", Verdict.FAILED, started_s=99.0, now_s=100.1)  # it knew nothing of the rest
    assert two.rests_for_s("a", now_s=100.1) < 0.5
    two.learn("a", Verdict.FAILED, started_s=101.0, now_s=101.0)
    [longer] = two.untold(now_s=101.0)
    assert longer.rests_for_s == 2
    one.hear(longer, now_s=2.0)
    assert one.standing("a", now_s=3.9) is Standing.RESTING
    assert (one.standing("a", now_s=4.0), two.standing("a", now_s=103.0)) == (Standing.PROBED, Standing.ON_TRIAL)
    one.learn("a", Verdict.GOOD, started_s=4.0, now_s=4.0)
    [well] = one.untold(now_s=4.0)
    two.hear(well, now_s=103.0)
    assert two.standing("a", now_s=103.0) is Standing.SOUND
    assert two.untold(now_s=103.0) == []


def test_a_rest_of_a_clock_that_was_moved_lasts_an_hour_at_most() -> None:
    """What others tell is measured by the database's clock."""
    breaker = Breaker()
    breaker.hear(Rest(account_id="a", is_open=True, rests_for_s=86_400, pause_s=1, is_broken=False), now_s=0.0)
    assert breaker.rests_for_s("a", now_s=0.0) == RETRY_AFTER_MAX_S


def test_what_was_learnt_here_since_is_not_overheard() -> None:
    """Another replica's success is of before a failure that it hasn't heard of."""
    breaker = rested()
    breaker.hear(Rest(account_id="a", is_open=False, rests_for_s=0, pause_s=0, is_broken=False), now_s=0.1)
    assert breaker.standing("a", now_s=0.1) is Standing.RESTING
