"""Calls that wait together run together, and none of them pays for another."""

import asyncio

import pytest

from services.billing.batches import Batches


async def test_who_waits_meanwhile_is_the_next_batch_and_no_key_is_in_one_twice():
    """One runs at a time here; the second batch has what came during the first."""
    gate, seen = asyncio.Event(), []

    async def run(items: list[str]) -> list[str]:
        seen.append(items)
        await gate.wait()
        return [item.upper() for item in items]

    batches = Batches(run=run, key=lambda item: item, most=3, at_once=1)
    asked = [asyncio.create_task(batches.ask(item)) for item in "abbcd"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*asked) == ["A", "B", "B", "C", "D"]
    assert seen == [["a", "b", "c"], ["b", "d"]]


async def test_a_failure_belongs_to_its_batch_and_who_gave_up_is_not_run():
    """The next ask is served as ever."""
    seen = []

    async def run(items: list[str]) -> list[str]:
        seen.extend(items)
        await asyncio.sleep(0)
        if "bad" in items:
            raise ValueError("bad")
        return items

    batches = Batches(run=run, key=lambda item: item, most=1, at_once=1)
    bad, gone, good = (asyncio.create_task(batches.ask(item)) for item in ("bad", "gone", "good"))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(ValueError, match="bad"):
        await bad
    assert await good == "good"
    assert seen == ["bad", "good"]


async def test_who_asks_in_the_moment_that_the_last_batch_ends_is_served():
    """Its task has ended then, but its end is not known everywhere yet."""

    async def run(items: list[str]) -> list[str]:
        return items

    batches = Batches(run=run, key=lambda item: item, most=1, at_once=1)
    async with asyncio.timeout(20):
        assert [await batches.ask(item) for item in ("first", "second")] == ["first", "second"]
