"""Slots in batches: whatever meets in one, each attempt's own takes and releases happen in their order."""

import asyncio
import time
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Code, TollbridgeError
from services.router.slot_batches import PACE_S, Batch, Done, SlotBatches, Take

SLOTS = {"a": 2, "b": 1}
STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "release", "leave", "pass"]), st.integers(0, 5), st.sampled_from(sorted(SLOTS))),
    max_size=40,
)


def take(number: int, account_id: str = "a") -> Take:
    return Take(attempt_id=f"{number}", request_id="r", account_id=account_id, spender="s")


def is_each_once(batch: Batch) -> bool:
    named = [*batch.over, *(each.attempt_id for each in batch.takes)]
    return len(named) == len(set(named))


class Shelf:
    """Slots as the table keeps them, in one place; a batch takes a while."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.batches: list[Batch] = []
        self.began_s: list[float] = []
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, batch: Batch) -> Done:
        self.batches.append(batch)
        self.began_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        over = {attempt_id: self.held.pop(attempt_id) for attempt_id in batch.over if attempt_id in self.held}
        for each in batch.takes:
            busy = Counter(self.held.values())[each.account_id]
            if each.attempt_id not in self.held and busy < SLOTS[each.account_id]:
                self.held[each.attempt_id] = each.account_id
        held = {each.attempt_id: self.held[each.attempt_id] for each in batch.takes if each.attempt_id in self.held}
        await asyncio.sleep(0)
        return Done(over=over, held=held)


@given(steps=STEPS, most=st.integers(1, 4))
def test_each_attempt_holds_what_its_last_call_left_it(steps: list[tuple[str, int, str]], most: int) -> None:
    """Whoever leaves meanwhile, a release comes after the take before it, and no attempt is in a batch twice."""

    async def check() -> None:
        shelf = Shelf()
        batches = SlotBatches(run=shelf.run, most=most)
        asked: defaultdict[str, list[asyncio.Task[object]]] = defaultdict(list)
        for kind, number, account_id in steps:
            if kind == "pass":
                await asyncio.sleep(0)
            elif kind == "leave":
                for call in asked[f"{number}"][-1:]:
                    call.cancel()
            elif kind == "take":
                asked[f"{number}"].append(asyncio.create_task(batches.take(take(number, account_id))))
            elif kind == "release":
                asked[f"{number}"].append(asyncio.create_task(batches.release([f"{number}"])))
        calls = [call for each in asked.values() for call in each]
        async with asyncio.timeout(20):
            answers = dict(zip(calls, await asyncio.gather(*calls, return_exceptions=True), strict=True))
            while batches._task is not None:  # noqa: ASYNC110  who left is served all the same
                await asyncio.sleep(0)
        for number, own in asked.items():
            last = answers[own[-1]] if own else None
            if isinstance(last, dict):
                assert number not in shelf.held
            elif not isinstance(last, BaseException):
                assert shelf.held.get(number) == last
        assert all(is_each_once(batch) for batch in shelf.batches)

    asyncio.run(check())


async def test_who_asks_meanwhile_is_in_the_next_batch_and_what_is_given_back_there_is_had_by_who_asks() -> None:
    """One statement seats them all, in the order of their asking."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run)
    assert [await batches.take(take(number)) for number in range(2)] == ["a", "a"]
    shelf.gate.clear()
    first = asyncio.create_task(batches.take(take(9, "b")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked = [asyncio.create_task(batches.take(take(number))) for number in (3, 4)]
    back = asyncio.create_task(batches.release(["0", "7"]))
    await asyncio.sleep(0)
    shelf.gate.set()
    assert await first == "b"
    assert await asyncio.gather(*asked) == ["a", None]
    assert await back == {"0": "a"}
    assert len(shelf.batches) == 4


async def test_who_gave_up_before_their_batch_takes_nothing() -> None:
    """And who gave up during it gives back afterwards what it took."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run)
    shelf.gate.clear()
    during, before = (asyncio.create_task(batches.take(take(number))) for number in (1, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for call in (during, before):
        call.cancel()
    back = asyncio.create_task(batches.release(["1"]))
    await asyncio.sleep(0)
    shelf.gate.set()
    assert await back == {"1": "a"}
    assert [len(batch.takes) for batch in shelf.batches] == [1, 0]


async def test_an_attempt_s_calls_keep_their_order_over_full_batches() -> None:
    """Taken, given back and taken again: it holds a slot."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run, most=2)
    calls = [batches.take(take(1)), batches.release(["1"]), batches.take(take(2, "b")), batches.take(take(1))]
    async with asyncio.timeout(20):
        assert await asyncio.gather(*calls) == ["a", {"1": "a"}, "b", "a"]
    assert shelf.held == {"1": "a", "2": "b"}


async def test_what_is_given_back_is_free_though_nobody_waits_to_hear_of_it() -> None:
    """Whoever ends an attempt may be gone before it is done."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run)
    assert await batches.take(take(1, "b")) == "b"
    back = asyncio.create_task(batches.release(["1"]))
    await asyncio.sleep(0)
    back.cancel()
    assert await batches.take(take(2, "b")) == "b"


async def test_a_lost_database_fails_those_who_wait_behind_too_and_the_next_is_served() -> None:
    """They don't wait for the same database once more, so a caller's 503 comes in time."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run)
    shelf.fails = TollbridgeError(Code.UNAVAILABLE, "gone")
    shelf.gate.clear()
    calls = [asyncio.create_task(batches.take(take(number))) for number in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls.append(asyncio.create_task(batches.take(take(3))))
    await asyncio.sleep(0)
    shelf.gate.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(each, "code", None) for each in found] == [Code.UNAVAILABLE] * 3
    assert len(shelf.batches) == 1
    shelf.fails = None
    assert await batches.take(take(5)) == "a"


async def test_while_the_database_stands_still_everybody_is_refused_soon_and_it_goes_on_in_order() -> None:
    """Those of the batch, those behind them and who comes then; the batch itself is never overtaken."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run, longest_s=0.05)
    shelf.gate.clear()
    first = asyncio.create_task(batches.take(take(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    behind = asyncio.create_task(batches.take(take(2)))
    async with asyncio.timeout(20):
        found = await asyncio.gather(first, behind, return_exceptions=True)
        found += await asyncio.gather(batches.release(["1"]), batches.take(take(3)), return_exceptions=True)
        assert [getattr(each, "code", None) for each in found] == [Code.UNAVAILABLE] * 4
        assert len(shelf.batches) == 1
        shelf.gate.set()
        while batches._task is not None:  # noqa: ASYNC110  it ends by itself
            await asyncio.sleep(0)
        assert await batches.release(["1", "2", "3"]) == {"1": "a"}


async def test_who_stood_still_itself_hears_the_answer_first() -> None:
    """A paused replica goes on with the answers that came meanwhile, and refuses nobody."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run, longest_s=0.6)
    shelf.gate.clear()
    first = asyncio.create_task(batches.take(take(1)))
    while not shelf.batches:  # noqa: ASYNC110  its batch is under way
        await asyncio.sleep(0)
    shelf.gate.set()
    time.sleep(0.7)  # noqa: ASYNC251  the whole process does
    assert await first == "a"
    assert await batches.take(take(2)) == "a"


async def test_a_mistake_is_its_own_batch_s_alone() -> None:
    """Who waits behind is served, and the mistake is not hidden."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run)
    shelf.fails = ValueError("wrong")
    wrong = asyncio.create_task(batches.take(take(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    behind = asyncio.create_task(batches.take(take(2)))
    with pytest.raises(ValueError, match="wrong"):
        await wrong
    shelf.fails = None
    assert await behind == "a"


async def test_a_crowd_is_served_at_a_pace() -> None:
    """So that each batch is worth its statement."""
    shelf = Shelf()
    batches = SlotBatches(run=shelf.run)
    asked_s = []
    for _ in range(3):
        asked_s.append(asyncio.get_running_loop().time())
        await asyncio.gather(*(batches.take(take(number)) for number in range(3)))
    pauses = [began_s - former_s for began_s, former_s in zip(shelf.began_s[1:], asked_s, strict=False)]
    assert all(pause > PACE_S * 0.99 for pause in pauses)
