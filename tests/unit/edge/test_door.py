"""How many requests one process takes and begins at once: an overload is refused at once, and its end is soon over."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.http import door as rules
from services.edge.http.door import HOLD_S, LEAST_LINE, LEAST_PLACES, LINE_S, PACE_S, Door, Visit
from services.edge.http.refusal_turns import REFUSED_AT_ONCE
from tests.unit.edge.world import until


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """The door's time."""
    return Clock()


def refused(attempt: Callable[[], object]) -> TollbridgeError:
    with pytest.raises(TollbridgeError) as caught:
        attempt()
    assert (caught.value.code, caught.value.retry_after_s) == (Code.OVERLOADED, 1)
    return caught.value


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_as_many_as_there_is_room_for_are_inside_and_no_more(clock: Clock) -> None:
    """Who leaves makes room for one, however often they say so."""
    door = Door(clock=clock, most_inside=3)
    visits = [door.enter() for _ in range(3)]
    refused(door.enter)
    visits[0].leave()
    visits[0].leave()
    visits[0] = door.enter()
    refused(door.enter)
    for visit in visits:
        visit.leave()
    assert (door.inside, door.refused) == (0, 2)


async def begin_many(door: Door, count: int) -> tuple[list[Visit], list[asyncio.Task[None]]]:
    visits = [door.enter() for _ in range(count)]
    tasks = [asyncio.create_task(visit.begin()) for visit in visits]
    await turns()
    return visits, tasks


def begun(tasks: Sequence[asyncio.Task[Any]]) -> int:
    return sum(task.done() and not task.cancelled() and task.exception() is None for task in tasks)


def turned_away(tasks: Sequence[asyncio.Task[Any]]) -> int:
    return sum(task.done() and not task.cancelled() and task.exception() is not None for task in tasks)


async def test_few_begin_at_once_and_the_others_in_the_order_in_which_they_came(clock: Clock) -> None:
    """Each that has asked its provider, or has left, lets the next one begin."""
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, LEAST_PLACES + 3)
    assert [task.done() for task in tasks] == [True] * LEAST_PLACES + [False] * 3
    assert door.waiting == 3
    visits[6].leave()
    await turns()
    assert [task.done() for task in tasks[-3:]] == [True, False, False]
    visits[5].through()
    await turns()
    assert all(task.done() for task in tasks[:-1])
    for visit in visits:
        visit.leave()
        await turns()
    assert (door.waiting, door.inside, begun(tasks)) == (0, 0, len(tasks))


async def test_as_many_are_on_their_way_as_got_through_in_a_second(clock: Clock) -> None:
    """A quick machine begins more at once; what it did more than a second ago says nothing of now."""
    door = Door(clock=clock)
    for _ in range(3 * LEAST_PLACES):
        visit = door.enter()
        await visit.begin()
        visit.through()
        visit.leave()
    visits, tasks = await begin_many(door, 4 * LEAST_PLACES)
    assert begun(tasks) == 3 * LEAST_PLACES
    clock.now_s += PACE_S * 2
    for visit in visits[:LEAST_PLACES]:
        visit.leave()
    await turns()
    assert begun(tasks) == 3 * LEAST_PLACES
    for visit in visits:
        visit.leave()
        await turns()
    assert (door.waiting, door.inside, begun(tasks)) == (0, 0, len(tasks))


async def test_a_burst_out_of_nothing_is_served(clock: Clock) -> None:
    """A thousand at once are no overload yet: nothing says that they can't be begun in time."""
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, 1000)
    while not all(task.done() for task in tasks):
        for visit, task in zip(visits, tasks, strict=True):
            if task.done():
                visit.through()
        await turns(1)
    for visit in visits:
        visit.leave()
    assert (door.inside, door.refused) == (0, 0)


async def test_whom_the_line_is_too_long_for_is_refused_at_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a line for a second already, only as many wait as will have begun in a while, at the pace of now."""
    monkeypatch.setattr(rules, "LOOK_S", 1000.0)
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, 1400)
    clock.now_s += PACE_S
    for visit in visits[:400]:
        visit.through()
        await turns()
    assert door.waiting == 600 == int(400 * LINE_S)
    refused(door.enter)
    for visit in visits[400:402]:
        visit.through()
        await turns()
    door.enter().leave()
    clock.now_s += PACE_S * 2  # nobody has got through for so long
    assert door.waiting > LEAST_LINE
    refused(door.enter)
    for visit in visits:
        visit.leave()
        await turns(1)
    await asyncio.gather(*tasks)
    door.enter().leave()
    assert door.inside == 0


async def test_a_line_that_is_too_long_once_its_pace_is_known_ends_at_its_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who came last is told so after a second, and need not wait to learn it; who came first goes on waiting."""
    monkeypatch.setattr(rules, "LOOK_S", 0.01)
    monkeypatch.setattr(rules, "HOLD_S", 100.0)
    monkeypatch.setattr(rules, "MOST_HOLD_S", 100.0)
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, LEAST_PLACES + LEAST_LINE + 100)
    clock.now_s += PACE_S
    await until(lambda: turned_away(tasks) == 100)
    assert [task.done() for task in tasks] == [True] * LEAST_PLACES + [False] * LEAST_LINE + [True] * 100
    assert (door.waiting, door.refused) == (LEAST_LINE, 100)
    for visit in visits:
        visit.leave()
        await turns(1)
    assert (begun(tasks), door.inside, door.waiting) == (LEAST_PLACES + LEAST_LINE, 0, 0)


async def test_who_waits_for_something_else_keeps_nobody_waiting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is another's after a moment, which says nothing of the pace; a slow process gives it more time."""
    monkeypatch.setattr(rules, "LOOK_S", 0.01)
    door = Door(clock=clock)
    stuck, first = await begin_many(door, LEAST_PLACES)
    others, second = await begin_many(door, LEAST_PLACES)
    clock.now_s += HOLD_S / 2
    await asyncio.sleep(0.03)
    assert (begun(first), begun(second)) == (LEAST_PLACES, 0)
    clock.now_s += 100.0
    await until(lambda: begun(second) == LEAST_PLACES)
    for visit in (*stuck, *others):
        visit.through()
        visit.leave()
    assert (door.inside, door._pace()) == (0, LEAST_PLACES)


async def test_a_body_that_is_still_to_come_leaves_its_place_to_others(clock: Clock) -> None:
    """One that is there keeps it; who had to wait for theirs goes before those who have not begun."""
    door = Door(clock=clock)
    come, body = asyncio.Event(), b"there"

    async def at_once() -> bytes:
        return body

    async def late() -> bytes:
        await come.wait()
        return body

    slow = door.enter()
    await slow.begin()
    reading = asyncio.create_task(slow.outside(late()))
    quick = door.enter()
    await quick.begin()
    assert await quick.outside(at_once()) == body
    await turns()
    assert (quick in door._places, slow in door._places) == (True, False)
    visits, tasks = await begin_many(door, LEAST_PLACES + 1)
    come.set()
    await turns()
    assert (begun(tasks), door.waiting, reading.done()) == (LEAST_PLACES - 1, 3, False)
    quick.leave()
    assert await reading == body
    assert begun(tasks) == LEAST_PLACES - 1
    for visit in (slow, *visits):
        visit.leave()
        await turns()
    assert (door.inside, door.waiting, begun(tasks)) == (0, 0, len(tasks))


async def test_who_gives_up_waiting_leaves_no_trace(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a client that has gone, nor one who waited too long, nor one whose turn came at that very moment."""
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, LEAST_PLACES + 2)
    tasks[-2].cancel()
    await turns()
    assert door.waiting == 1
    visits[0].through()  # the turn of the last one has come, and it is cancelled before it learns of it
    tasks[-1].cancel()
    await turns()
    assert door.waiting == 0
    visits[-1].leave()
    monkeypatch.setattr(rules, "PATIENCE_S", 0.01)
    late = door.enter()
    first = door.enter()
    await first.begin()  # in the place that the cancelled one gave back
    with pytest.raises(TollbridgeError, match="Too many requests"):
        await late.begin()
    for visit in (*visits, late, first):
        visit.leave()
    assert (door.waiting, door.inside, door._places) == (0, 0, {})


async def test_refusals_take_turns(clock: Clock) -> None:
    """A crowd that is refused at once is told so in more than one turn of the loop."""
    door = Door(clock=clock, most_inside=0)
    tasks = [asyncio.create_task(door.admit()) for _ in range(2 * REFUSED_AT_ONCE)]
    await turns(1)
    assert 0 < turned_away(tasks) <= REFUSED_AT_ONCE
    await until(lambda: all(task.done() for task in tasks))
    assert (turned_away(tasks), door.inside, door.refused) == (len(tasks), 0, len(tasks))
