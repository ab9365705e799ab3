"""How long an exchange waits: for ever, until somebody sets its end; then it goes on, uncancelled."""

import asyncio

import pytest

from services.edge.paid.patience import Patience
from tests.unit.edge.world import until


async def waits(patience: Patience) -> str:
    try:
        async with patience.waiting():
            await asyncio.get_running_loop().create_future()
    except TimeoutError:
        return "timed out"
    return "came"


async def test_what_waits_is_interrupted_at_the_end_that_another_task_sets() -> None:
    """Before that it waits for ever; its task goes on, and what it begins to wait for afterwards times out, too."""
    patience = Patience(sending=lambda: False)
    task = asyncio.create_task(waits(patience))
    await asyncio.sleep(0.01)
    assert (task.done(), patience.has_end, patience.has_time_left) == (False, False, False)
    patience.end_at(asyncio.get_running_loop().time())
    async with asyncio.timeout(20):
        assert await task == "timed out"
        assert await waits(patience) == "timed out"
    assert (task.cancelling(), patience.has_end, patience.has_time_left) == (0, True, False)


async def test_an_end_to_come_is_waited_for_and_may_be_brought_forward() -> None:
    """A client that leaves while its stream is read on moves it once; a process that ends, once more."""
    patience = Patience(sending=lambda: False)
    task = asyncio.create_task(waits(patience))
    await asyncio.sleep(0)
    patience.end_at(asyncio.get_running_loop().time() + 1000)
    await asyncio.sleep(0.01)
    assert (task.done(), patience.has_time_left) == (False, True)
    patience.end_at(asyncio.get_running_loop().time())
    await until(task.done)


async def test_a_write_that_waits_is_interrupted_before_the_end() -> None:
    """Nobody reads it any more; what is left of the time is for reading on."""
    patience = Patience(sending=lambda: True)
    task = asyncio.create_task(waits(patience))
    await asyncio.sleep(0)
    patience.end_at(asyncio.get_running_loop().time() + 1000)
    await until(task.done)
    assert (task.result(), patience.has_time_left) == ("timed out", True)


@pytest.mark.parametrize("begins", [False, True], ids=["before the first wait", "between two waits"])
async def test_an_end_that_is_set_while_nothing_waits_holds_for_what_waits_next(begins: bool) -> None:
    """Setting it fails at no moment."""
    patience = Patience(sending=lambda: False)
    if begins:
        async with patience.waiting():
            pass
    patience.end_at(asyncio.get_running_loop().time())
    async with asyncio.timeout(20):
        assert await waits(patience) == "timed out"
