"""How many requests one process takes and begins at once: an overload is refused at once, and its end is soon over."""

import asyncio
from collections.abc import Callable

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.http import door as rules
from services.edge.http.door import LEAST_LINE, LINE_S, MOST_AT_ONCE, PACE_S, Door, Visit


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


async def test_few_begin_at_once_and_the_others_in_the_order_in_which_they_came(clock: Clock) -> None:
    """Each that has begun lets the next one begin."""
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, MOST_AT_ONCE + 3)
    assert [task.done() for task in tasks] == [True] * MOST_AT_ONCE + [False] * 3
    assert door.waiting == 3
    visits[5].begun()
    visits[6].leave()
    await turns()
    assert [task.done() for task in tasks[-3:]] == [True, True, False]
    for visit in visits:
        visit.begun()
    await turns()
    assert all(task.done() for task in tasks)
    for visit in visits:
        visit.leave()
    assert (door.waiting, door.inside) == (0, 0)


async def test_a_burst_out_of_nothing_is_served(clock: Clock) -> None:
    """A thousand at once are no overload yet: nothing says that they can't be begun in time."""
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, 1000)
    while not all(task.done() for task in tasks):
        for visit, task in zip(visits, tasks, strict=True):
            if task.done():
                visit.begun()
        await turns(1)
    for visit in visits:
        visit.leave()
    assert (door.inside, door.refused) == (0, 0)


async def test_whom_the_line_is_too_long_for_is_refused_at_once(clock: Clock) -> None:
    """With a line for a second already, only as many wait as will have begun in a while, at the pace of now."""
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, MOST_AT_ONCE + 300)
    clock.now_s += PACE_S
    for number in range(100):
        visits[number].begun()
        await turns()
    assert door.waiting == 200
    refused(door.enter)
    for number in range(100, 190):
        visits[number].begun()
        await turns()
    assert door.waiting == 300 - 190 < int(190 * LINE_S)
    door.enter().leave()
    clock.now_s += PACE_S * 2  # nobody has begun for so long
    assert door.waiting > LEAST_LINE
    refused(door.enter)
    for visit in visits:
        visit.leave()
        await turns(1)
    await asyncio.gather(*tasks)
    door.enter().leave()
    assert door.inside == 0


async def test_who_gives_up_waiting_leaves_no_trace(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a client that has gone, nor one who waited too long, nor one whose turn came at that very moment."""
    door = Door(clock=clock)
    visits, tasks = await begin_many(door, MOST_AT_ONCE + 2)
    tasks[-2].cancel()
    await turns()
    assert door.waiting == 1
    visits[0].begun()  # the turn of the last one has come, and it is cancelled before it learns of it
    tasks[-1].cancel()
    await turns()
    assert door.waiting == 0
    monkeypatch.setattr(rules, "PATIENCE_S", 0.01)
    late = door.enter()
    first = door.enter()
    await first.begin()  # in the place that the cancelled one gave back
    with pytest.raises(TollbridgeError, match="Too many requests"):
        await late.begin()
    for visit in (*visits, late, first):
        visit.leave()
    assert (door.waiting, door.inside, door._beginning) == (0, 0, 0)
