"""An edge that stood still for so long that its slots are others' ends its calls as it goes on."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.limits.limits import Limits
from services.edge.limits.terms import Kind, LeaseOfKind, Statement, Terms
from services.edge.paid import waking
from services.edge.paid.attempts import Attempts
from services.edge.paid.waking import LIVES_S, LOOK_EVERY_S, STOOD_STILL_S, Holder, Waking
from tests.unit.edge.world import World, until
from tollbridge.usage.v1 import usage_pb2


class Clock:
    """The machine's time, which a test moves; each look at it is counted, and may take a while."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.looks = 0
        self.look_s = 0.0

    def __call__(self) -> float:
        self.looks += 1
        self.now_s += self.look_s
        return self.now_s

    async def looked(self) -> None:
        looks = self.looks
        await until(lambda: self.looks > looks + 1)


@dataclasses.dataclass
class Told:
    """A holder whose owner was told then."""

    told_at_s: float


class Owners:
    """Router and auth, which hear everything unless they are away."""

    away = False

    async def finish_attempt(self, **_: object) -> None: ...

    async def state_attempts(self, _attempt_ids: object, *, as_of: str) -> float:
        assert as_of
        return self._heard()

    async def lease_limits(self, statement: Statement) -> tuple[dict[Kind, LeaseOfKind], float]:
        self._heard()
        return {each.kind: LeaseOfKind(held=each.wanted, remaining=0, retry_after_s=0) for each in statement.limits}, 30

    async def state_limits(self, _subjects: list[str], *, as_of: int) -> float:
        assert as_of
        return self._heard()

    async def end(self, *, as_of: int) -> None: ...

    def _heard(self) -> float:
        if self.away:
            raise TollbridgeError(Code.UNAVAILABLE, "It is away.")
        return 10.0


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "LOOK_EVERY_S", 0.01)


@contextlib.asynccontextmanager
async def watched(clock: Clock, *holders: Holder) -> AsyncIterator[list[float]]:
    """When everything was cut, by that clock."""
    cuts = list[float]()

    def cut() -> int:
        cuts.append(clock.now_s)
        return 1

    watching = asyncio.create_task(Waking(holders=holders, cut=cut, clock=clock).run())
    await clock.looked()
    try:
        yield cuts
    finally:
        watching.cancel()


async def test_what_runs_on_a_lapsed_slot_is_cut_and_charged_nothing(world: World):
    """Its client is told by the error event, and the attempt is over."""
    clock = Clock()
    watch = Waking(holders=[Told(995.0)], cut=world.relay.cut, clock=clock)
    response = await world.post(world.body({"output_tokens": 100, "chunks": 100, "gap_ms": 200}, stream=True))
    seen = await response.content.readany()
    watching = asyncio.create_task(watch.run())
    try:
        await clock.looked()
        clock.now_s += LIVES_S + LOOK_EVERY_S
        rest = await response.content.read()
    finally:
        watching.cancel()
    assert b"error" in rest
    assert b"[DONE]" not in seen + rest
    event = await world.only_event()
    assert (event.ended, event.charge_nano_usd) == (usage_pb2.ENDED_GATEWAY_FAILED, 0)
    await world.settled()


@pytest.mark.parametrize(
    ("still_s", "told_ago_s"),
    [(STOOD_STILL_S - 1, LIVES_S), (STOOD_STILL_S + 1, 5.0)],
    ids=["router was away", "it was told a moment before"],
)
async def test_who_did_not_lapse_runs_on(still_s: float, told_ago_s: float):
    """A busy moment while nobody can be told, or a rest that was shorter than a lease, ends nothing."""
    clock = Clock()
    async with watched(clock, Told(clock.now_s - told_ago_s)) as cuts:
        clock.now_s += still_s
        await clock.looked()
        assert cuts == []


async def test_who_runs_and_can_not_tell_its_owners_runs_on():
    """Nor do moments in which it is busy add up, however long the owners are away."""
    clock = Clock()
    async with watched(clock, Told(clock.now_s)) as cuts:
        clock.look_s = 2.5 * LOOK_EVERY_S
        await until(lambda: clock.looks > 60)
        assert cuts == []


async def test_two_stops_are_as_long_as_one():
    """What was told last was told before both; the moment between them was too short to tell anybody."""
    clock = Clock()
    async with watched(clock, Told(clock.now_s - 5)) as cuts:
        clock.now_s += STOOD_STILL_S - 0.5
        await clock.looked()
        assert cuts == []
        clock.now_s += STOOD_STILL_S - 0.5
        await until(lambda: bool(cuts))


async def test_a_stop_after_a_time_without_owners_is_a_stop():
    """They came back during it, and have waited long enough since."""
    clock = Clock()
    async with watched(clock, Told(clock.now_s)) as cuts:
        clock.look_s = LOOK_EVERY_S
        await until(lambda: clock.looks > LIVES_S + 10)
        assert cuts == []
        clock.now_s += LIVES_S + 6
        await until(lambda: bool(cuts))


async def test_what_is_cut_is_cut_once():
    """What begins after it has shares of its own, though nobody could be told of them yet."""
    clock = Clock()
    async with watched(clock, Told(clock.now_s - 5)) as cuts:
        clock.now_s += LIVES_S + 6
        await until(lambda: bool(cuts))
        clock.look_s = LOOK_EVERY_S
        await until(lambda: clock.looks > 2 * LIVES_S)
        assert len(cuts) == 1


async def test_a_statement_that_is_the_first_to_wake_does_not_hide_that_it_is_late():
    """Router has given the slots away by then, and takes none back for it."""
    clock = Clock()
    attempts = Attempts(router=Owners(), clock=clock)
    async with watched(clock, attempts) as cuts:
        clock.now_s += LIVES_S + 6
        await attempts.state()
        await until(lambda: bool(cuts))


async def test_permits_lapse_by_what_auth_was_told():
    """Router may have heard a moment before the stop: what auth was told longer ago is others' all the same."""
    clock, owners = Clock(), Owners()
    attempts, limits = Attempts(router=owners, clock=clock), Limits(keeper=owners, clock=clock)
    admitted = await limits.admit(Terms(subject="k", limits={Kind.CONCURRENT: 5}), tokens=1)
    await limits.state()
    async with watched(clock, attempts, limits) as cuts:
        clock.now_s += 9
        await attempts.state()
        await clock.looked()
        clock.now_s += LIVES_S - 3
        await until(lambda: bool(cuts))
    admitted.end()


async def test_nothing_lapses_of_who_holds_nothing():
    """Auth may be away for long, or never was asked: who has drawn no permit holds what router was told of."""
    clock, owners = Clock(), Owners()
    limits = Limits(keeper=owners, clock=clock)
    for seconds in (100, 10):
        clock.now_s += seconds
        assert limits.told_at_s == clock.now_s
        await limits.state()
    admitted = await limits.admit(Terms(subject="k", limits={Kind.CONCURRENT: 5}), tokens=1)
    asked_at_s = clock.now_s
    clock.now_s += 10
    assert limits.told_at_s == asked_at_s
    await limits.state()
    assert limits.told_at_s == clock.now_s
    owners.away, told_at_s = True, clock.now_s
    clock.now_s += 10
    await limits.state()
    assert limits.told_at_s == told_at_s
    admitted.end()
