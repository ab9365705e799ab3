"""An edge that stood still for so long that its slots are others' ends its calls as it goes on."""

import asyncio

import pytest

from services.edge.paid import waking
from services.edge.paid.attempts import Attempts
from services.edge.paid.waking import LIVES_S, LOOK_EVERY_S, STOOD_STILL_S, Waking
from tests.unit.edge.world import World, until
from tollbridge.usage.v1 import usage_pb2


class Clock:
    """The machine's time, which a test moves; each look at it is counted."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now_s

    async def looked(self) -> None:
        looks = self.looks
        await until(lambda: self.looks > looks + 1)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "LOOK_EVERY_S", 0.01)


async def test_what_runs_on_a_lapsed_slot_is_cut_and_charged_nothing(world: World):
    """Its client is told by the error event, and the attempt is over."""
    clock = Clock()
    watch = Waking(told_at_s=lambda: 995.0, cut=world.relay.cut, clock=clock)
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
    clock, cuts = Clock(), list[float]()

    def cut() -> int:
        cuts.append(clock.now_s)
        return 1

    watching = asyncio.create_task(Waking(told_at_s=lambda: 1000.0 - told_ago_s, cut=cut, clock=clock).run())
    try:
        await clock.looked()
        clock.now_s += still_s
        await clock.looked()
        assert cuts == []
    finally:
        watching.cancel()


async def test_a_statement_that_is_the_first_to_wake_does_not_hide_that_it_is_late():
    """Router has given the slots away by then, and takes none back for it."""
    clock, cuts = Clock(), list[float]()

    class Router:
        async def state_attempts(self, _attempt_ids: list[str], *, as_of: str) -> float:
            assert as_of
            return 10.0

    attempts = Attempts(router=Router(), clock=clock)

    def cut() -> int:
        cuts.append(clock.now_s)
        return 1

    watching = asyncio.create_task(Waking(told_at_s=lambda: attempts.told_at_s, cut=cut, clock=clock).run())
    try:
        await clock.looked()
        clock.now_s += LIVES_S + 6
        await attempts.state()
        await until(lambda: bool(cuts))
    finally:
        watching.cancel()
