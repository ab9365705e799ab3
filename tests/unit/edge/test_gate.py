"""The gate: one question at a time for all who wait, nobody forgotten, nothing kept by who has left."""

import asyncio
from typing import Any, cast
from uuid import uuid4

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.edge.limits.limit_owner import LimitOwner
from services.edge.limits.limits import Limits
from services.edge.limits.terms import Kind, Terms
from tests.unit.edge.limit_desk import LimitDesk

TERMS = Terms(subject="k", limits={Kind.CONCURRENT: 2})


class Pipe:
    """A way to auth that a test may cut, or hold up."""

    def __init__(self) -> None:
        self.desk = LimitDesk()
        self.open = asyncio.Event()
        self.open.set()
        self.is_down = False

    async def call(self, method: str, request: Any, *_: object, **__: object) -> Any:
        await self.open.wait()
        if self.is_down:
            raise TollbridgeError(Code.UNAVAILABLE, "auth is away", retry_after_s=1)
        return (
            self.desk.answer(request) if method == "LeaseLimits" else await self.desk.state(request, cast("Any", None))
        )


def limits_over(pipe: Pipe) -> Limits:
    return Limits(keeper=LimitOwner(pipe=cast("PipeClient", pipe), spender=uuid4()))


async def test_however_many_wait_auth_is_asked_once_for_all():
    """First come, first served; for permits it is asked again once."""
    pipe = Pipe()
    limits = limits_over(pipe)
    found = await asyncio.gather(*(limits.admit(TERMS, tokens=0) for _ in range(30)), return_exceptions=True)
    refused = [each for each in found if isinstance(each, TollbridgeError)]
    assert (len(refused), {error.code for error in refused}) == (28, {Code.CONCURRENCY_LIMIT_EXCEEDED})
    assert not any(isinstance(each, BaseException) for each in found[:2])
    assert pipe.desk.leased <= 4


async def test_who_leaves_while_waiting_has_drawn_nothing():
    """Also when the answer comes in the same moment."""
    pipe = Pipe()
    limits = limits_over(pipe)
    pipe.open.clear()
    leaving = [asyncio.create_task(limits.admit(TERMS, tokens=0)) for _ in range(2)]
    await asyncio.sleep(0)
    leaving[0].cancel()
    pipe.open.set()
    admitted = await leaving[1]
    with pytest.raises(asyncio.CancelledError):
        await leaving[0]
    (await limits.admit(TERMS, tokens=0)).end()
    admitted.end()
    await limits.drain()
    assert pipe.desk.held("k", Kind.CONCURRENT) == 0


async def test_a_permit_that_comes_free_goes_to_who_waits_for_it():
    """Within the tenth of a second before a refusal."""
    limits = limits_over(Pipe())
    first = [await limits.admit(TERMS, tokens=0) for _ in range(2)]
    waiting = asyncio.create_task(limits.admit(TERMS, tokens=0))
    await asyncio.sleep(0)
    first[0].end()
    (await waiting).end()
    first[1].end()


async def test_without_auth_nobody_is_let_in_and_with_it_everybody_is_again():
    """An answer that was lost leaves nothing in doubt for long."""
    pipe = Pipe()
    limits = limits_over(pipe)
    pipe.is_down = True
    with pytest.raises(TollbridgeError) as caught:
        await limits.admit(TERMS, tokens=0)
    assert caught.value.code is Code.UNAVAILABLE
    pipe.is_down = False
    admitted = [await limits.admit(TERMS, tokens=0) for _ in range(2)]
    for each in admitted:
        each.end()
        each.end()  # the first end counts
    await limits.drain()
    assert pipe.desk.held("k", Kind.CONCURRENT) == 0
