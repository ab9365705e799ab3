"""Where attempts go while an account is on trial, hangs, or fails with all the others; and who is waited for."""

import asyncio

import pytest

from chassis.errors import Code, TollbridgeError
from services.router.asked import LEFT, End
from services.router.attempts import Attempt
from services.router.breaker import TOLERATED_FAILURES, Standing, Verdict
from services.router.retry_budget import LEAST, SHARE, WINDOW_S, RetryBudget
from services.router.suspicion import LEAST_S, TIMES, Suspicion
from services.router.waiting_room import LOOK_FIRST_S, WaitingRoom
from tests.patience import BUSY_S
from tests.unit.router.pair import CONFIG, Pair, ask, end, refusal, rows


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(pair: Pair) -> Clock:
    """The first replica's."""
    made = Clock()
    pair.one.decider._clock = made
    return made


async def decided(pair: Pair, count: int, model: str = "both") -> list[Attempt]:
    return [await pair.one.decider.decide(ask(model)) for _ in range(count)]


def accounts(attempts: list[Attempt]) -> list[str]:
    return [attempt.target.account.id for attempt in attempts]


def left(attempt: Attempt) -> End:
    return End(attempt_id=attempt.id, verdict=Verdict.NOTHING, name=LEFT)


async def until_waiting(pair: Pair, count: int) -> None:
    async with asyncio.timeout(BUSY_S):
        while pair.one.decider.waiting < count:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.001)


async def rest_b1(pair: Pair) -> None:
    for attempt in await decided(pair, TOLERATED_FAILURES + 1):
        assert attempt.target.account.id == "b1"
        await pair.one.decider.finish(end(attempt.id, Verdict.FAILED))


async def test_after_its_rest_an_account_gets_one_attempt_until_that_has_succeeded(pair: Pair, clock: Clock) -> None:
    """Though it comes first by its priority, the others go to the next one; then it has everything again."""
    await rest_b1(pair)
    clock.now_s += 1
    trial = await decided(pair, 4)
    assert accounts(trial)[0] == "b1"
    assert "b1" not in accounts(trial)[1:]
    await pair.one.decider.finish(end(trial[0].id, Verdict.GOOD))
    assert accounts(await decided(pair, 4)) == ["b1"] * 4


async def test_a_probe_that_fails_costs_one_request_a_detour(pair: Pair, clock: Clock) -> None:
    """Its rest doubles, and meanwhile nobody is sent there."""
    await rest_b1(pair)
    clock.now_s += 1
    [probe] = await decided(pair, 1)
    again = await pair.one.decider.decide(
        ask("both", request_id=probe.request_id, tried=(end(probe.id, Verdict.FAILED),))
    )
    clock.now_s += 1.9
    assert "b1" not in accounts([again, *await decided(pair, 2)])
    clock.now_s += 0.2
    assert accounts(await decided(pair, 1)) == ["b1"]


async def test_an_account_that_is_the_only_one_is_tried_by_all_while_it_is_probed(pair: Pair, clock: Clock) -> None:
    """They may fail, or be answered; a refusal would fail them for certain."""
    await rest_b1(pair)
    clock.now_s += 1
    assert accounts(await decided(pair, 3, "free")) == ["b1"] * 3


async def test_an_account_that_has_gone_quiet_is_left_alone_before_its_attempts_time_out(
    pair: Pair, clock: Clock
) -> None:
    """Answers take a tenth of a second there; two that take far longer are enough to prefer others."""
    [usual] = await decided(pair, 1)
    clock.now_s += 0.1
    await pair.one.decider.finish(end(usual.id, Verdict.GOOD))
    hanging = await decided(pair, 2)
    clock.now_s += LEAST_S + 0.1
    assert "b1" not in accounts(await decided(pair, 3))
    assert accounts(await decided(pair, 1, "free")) == ["b1"]
    await pair.one.decider.finish(end(hanging[1].id, Verdict.GOOD))
    assert accounts(await decided(pair, 1)) == ["b1"]


async def test_attempts_that_were_left_after_long_are_evidence_too(pair: Pair, clock: Clock) -> None:
    """Else an account that hangs for longer than callers wait would get them all; who leaves at once says nothing."""
    [usual] = await decided(pair, 1)
    clock.now_s += 0.1
    await pair.one.decider.finish(end(usual.id, Verdict.GOOD))
    for waited_s, expected in ((LEAST_S / 2, True), (2 * LEAST_S, False)):
        for attempt in await decided(pair, 2):
            clock.now_s += waited_s
            await pair.one.decider.finish(left(attempt))
        clock.now_s += 1
        assert ("b1" in accounts(await decided(pair, 1))) is expected
    clock.now_s += 100
    assert accounts(await decided(pair, 1)) == ["b1"]


@pytest.mark.parametrize("error", [TollbridgeError(Code.UNAVAILABLE, "no database"), asyncio.CancelledError()])
async def test_a_probe_that_got_no_slot_keeps_nobody_from_probing(
    pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Without a database, or left by its caller: it is as if it had not begun."""
    for attempt in await decided(pair, 2, "narrow"):
        await pair.one.decider.finish(end(attempt.id, Verdict.RATE_LIMITED))
    clock.now_s += 10

    async def take(**_: str) -> str:
        raise error

    monkeypatch.setattr(pair.one.decider._desk, "take", take)
    with pytest.raises(type(error)):
        await pair.one.decider.decide(ask("narrow"))
    standings = {pair.one.decider._breaker.standing(each, now_s=clock.now_s) for each in ("a1", "a2")}
    assert Standing.PROBED not in standings


async def test_retries_at_an_account_that_is_well_use_no_budget(pair: Pair, clock: Clock) -> None:
    """They are no load on what fails, so those at failing accounts keep their share."""
    for _ in range(3 * LEAST):
        first = await pair.one.decider.decide(ask("narrow"))
        await pair.one.decider.decide(ask("both", tried=(end(first.id, Verdict.NOTHING),)))
    assert pair.one.decider._budget.has_room(now_s=clock.now_s)


async def test_who_waited_in_vain_is_told_how_long_the_line_is(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its pace when they have to leave it, not a second always."""
    await decided(pair, 5, "narrow")
    lengths_s = iter((0.0, 20.3))
    monkeypatch.setattr(pair.one.decider._room, "wait_s", lambda _: next(lengths_s))
    refused = await refusal(pair.one.decider.decide(ask("narrow")))
    assert refused.details["reason"] == "busy"
    assert refused.retry_after_s == pytest.approx(20)


async def test_a_retry_needs_budget_where_everything_fails(pair: Pair, clock: Clock) -> None:
    """Used up, it is told the last failure; an account that is well may be tried all the same."""
    for _ in range(LEAST):
        pair.one.decider._budget.count(now_s=clock.now_s, is_retry=True)
    for _ in range(TOLERATED_FAILURES):
        [failed] = await decided(pair, 1, "free")
        await pair.one.decider.finish(end(failed.id, Verdict.FAILED))
    first = await pair.one.decider.decide(ask("narrow"))
    tried = (end(first.id, Verdict.FAILED),)
    assert (await pair.one.decider.decide(ask("both", tried=tried))).target.account.id != "b1"
    refused = await refusal(pair.one.decider.decide(ask("free", tried=tried)))
    assert (refused.code, refused.details["last_outcome"]) == (Code.PROVIDER_ERROR, "failed")
    clock.now_s += WINDOW_S + 1
    assert (await pair.one.decider.decide(ask("free", tried=tried))).target.account.id == "b1"


def test_the_budget_is_a_share_of_the_last_seconds() -> None:
    """A few are always allowed, then a fifth of all attempts; what is older than the window counts no more."""
    budget, now_s = RetryBudget(), 0.0
    for number in range(1000):
        now_s = number / 200
        is_retry = number % 2 == 0 and budget.has_room(now_s=now_s)
        budget.count(now_s=now_s, is_retry=is_retry)
    assert SHARE * 1000 - 1 <= budget._retries <= SHARE * 1000 + 1
    assert not budget.has_room(now_s=now_s)
    assert budget.has_room(now_s=now_s + WINDOW_S + 1)
    assert budget._attempts == 0


def test_long_answers_are_not_suspicious_where_answers_are_long() -> None:
    """Nor is a single slow one, nor what began before the latest success, nor what must have had its first byte."""
    suspicion = Suspicion()
    suspicion.succeeded("a", started_s=0.0, now_s=10.0)
    for attempt_id in ("1", "2"):
        suspicion.began("a", attempt_id, now_s=10.0)
    for after_s, expected in ((TIMES * 10, False), (TIMES * 10 + 1, True)):
        assert suspicion.is_quiet("a", now_s=10 + after_s, first_byte_s=60) is expected
    suspicion.ended("a", "1")
    assert not suspicion.is_quiet("a", now_s=50.0, first_byte_s=60)
    suspicion.began("a", "3", now_s=11.0)
    assert suspicion.is_quiet("a", now_s=50.0, first_byte_s=60)
    suspicion.succeeded("a", started_s=12.0, now_s=51.0)
    assert not suspicion.is_quiet("a", now_s=1000.0, first_byte_s=2000)
    for attempt_id in ("4", "5"):
        suspicion.began("a", attempt_id, now_s=1000.0)
    assert suspicion.is_quiet("a", now_s=1190.0, first_byte_s=200)
    assert not suspicion.is_quiet("a", now_s=1201.0, first_byte_s=200)


async def test_a_slot_that_comes_free_here_is_taken_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of the line doesn't wait for its next look."""
    monkeypatch.setattr("services.router.waiting_room.LOOK_FIRST_S", BUSY_S)
    pair.path.write_text(CONFIG.replace("PRICE", "1").replace("wait_s: 0.3", f"wait_s: {BUSY_S}"))
    await pair.one.watch.load_first()
    held = await decided(pair, 5, "narrow")
    waits = asyncio.create_task(pair.one.decider.decide(ask("narrow", patience_s=BUSY_S)))
    await until_waiting(pair, 1)
    await asyncio.sleep(LOOK_FIRST_S)
    async with asyncio.timeout(BUSY_S / 2):
        await pair.one.decider.finish(end(held[0].id))
        seated = await waits
    assert seated.target.account.id == held[0].target.account.id
    assert sum((await rows(pair)).values()) == 5


async def test_a_new_config_moves_nobody_in_a_line(pair: Pair) -> None:
    """Who waits keeps the place before who comes after the change."""
    pair.path.write_text(CONFIG.replace("PRICE", "1").replace("wait_s: 0.3", f"wait_s: {BUSY_S}"))
    await pair.one.watch.load_first()
    held = await decided(pair, 5, "narrow")
    came: list[str] = []

    async def wait(name: str) -> None:
        await pair.one.decider.decide(ask("narrow", patience_s=BUSY_S))
        came.append(name)

    waiting = []
    for number, name in enumerate(("first", "second", "third")):
        waiting.append(asyncio.create_task(wait(name)))
        await until_waiting(pair, number + 1)
        await pair.one.watch.load_first()
    for attempt in held[:3]:
        await pair.one.decider.finish(end(attempt.id))
    await asyncio.gather(*waiting)
    assert came == ["first", "second", "third"]
    assert pair.one.decider._room._lines == {}


async def test_who_comes_while_the_head_is_being_moved_up_stands_behind() -> None:
    """There is a line until its last one has left it, even between two heads."""
    room, seen = WaitingRoom(), []

    async def stand() -> None:
        async with room.at_the_head("m", {"a"}):
            await asyncio.sleep(0)
        seen.append(room.has_line("m"))

    await asyncio.gather(*(stand() for _ in range(3)))
    assert seen == [True, True, False]
