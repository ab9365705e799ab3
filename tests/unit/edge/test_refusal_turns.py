"""Refusals take turns: those who are served get on while a crowd is refused."""

import asyncio

from services.edge.http.refusal_turns import REFUSED_AT_ONCE, RefusalTurns
from tests.unit.edge.world import until


async def test_few_are_refused_in_one_turn_of_the_loop_and_in_order() -> None:
    """The others wait, in the order in which they came; nobody is forgotten, and one who leaves is passed over."""
    turns, order = RefusalTurns(), list[int]()

    async def refused(number: int) -> None:
        await turns.wait()
        order.append(number)

    count = 3 * REFUSED_AT_ONCE + 3
    tasks = [asyncio.create_task(refused(number)) for number in range(count)]
    seen = 0
    await asyncio.sleep(0)
    assert order == list(range(REFUSED_AT_ONCE))
    tasks[REFUSED_AT_ONCE + 5].cancel()
    while len(order) < count - 1:
        assert len(order) - seen <= REFUSED_AT_ONCE
        seen = len(order)
        await asyncio.sleep(0)
    assert order == [number for number in range(count) if number != REFUSED_AT_ONCE + 5]


async def test_who_is_refused_alone_does_not_wait() -> None:
    """Also after a crowd, once its turns are over; an idle loop is not kept busy."""
    turns = RefusalTurns()
    async with asyncio.timeout(10):
        await asyncio.gather(*(turns.wait() for _ in range(2 * REFUSED_AT_ONCE)))
    await until(lambda: not turns._now)
    alone = turns.wait()
    try:
        alone.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")
