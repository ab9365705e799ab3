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
from tollbridge.auth.v1 import auth_pb2

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


async def test_who_comes_again_when_told_is_let_in_by_any_replica():
    """`Retry-After` says a minute at most; where a unit counts for a little longer, its next user waits for it."""
    pipe = Pipe()
    terms = Terms(subject="k", limits={Kind.REQUESTS: 1, Kind.TOKENS: 50})
    limits, another = limits_over(pipe), limits_over(pipe)
    admitted = await limits.admit(terms, tokens=50)
    admitted.begin()
    admitted.end(tokens=50)
    with pytest.raises(TollbridgeError) as refused:
        await limits.admit(terms, tokens=50)
    assert refused.value.retry_after_s == 60
    now_ms = pipe.desk.now_ms
    pipe.desk.now_ms = lambda: now_ms() + 60_000
    (await another.admit(terms, tokens=50)).end()


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


OWN = Terms(subject="k", limits={Kind.REQUESTS: 2, Kind.CONCURRENT: 5})
SHARED = Terms(subject="c", limits={Kind.REQUESTS: 3}, own=OWN)


async def test_a_key_with_its_own_limit_is_held_to_it_and_to_what_its_customers_keys_share():
    """Two of its own, and of the three that all share only what the other key leaves."""
    pipe = Pipe()
    limits = limits_over(pipe)
    other = Terms(subject="c", limits=SHARED.limits)
    for terms in (SHARED, SHARED, other):
        admitted = await limits.admit(terms, tokens=0)
        admitted.begin()
        admitted.end()
    for terms in (SHARED, other):
        with pytest.raises(TollbridgeError, match="limit of"):
            await limits.admit(terms, tokens=0)
    await limits.drain()
    assert (pipe.desk.counted("k", Kind.REQUESTS), pipe.desk.counted("c", Kind.REQUESTS)) == (2, 3)


async def test_who_is_refused_by_what_is_shared_has_drawn_nothing_of_its_own():
    """Nor does one that is let in by both count before it begins."""
    pipe = Pipe()
    limits = limits_over(pipe)
    other = [await limits.admit(Terms(subject="c", limits=SHARED.limits), tokens=0) for _ in range(2)]
    admitted = await limits.admit(SHARED, tokens=0)
    with pytest.raises(TollbridgeError, match="limit of 3 requests per minute"):
        await limits.admit(SHARED, tokens=0)
    figures = limits.figures(SHARED)
    assert {kind: each.limit for kind, each in figures.items()} == {Kind.REQUESTS: 3, Kind.CONCURRENT: 5}
    assert (figures[Kind.REQUESTS].remaining, figures[Kind.CONCURRENT].remaining) == (0, 4)
    for each in (*other, admitted):
        each.end()
    await limits.drain()
    assert [pipe.desk.counted(subject, Kind.REQUESTS) for subject in "kc"] == [0, 0]
    assert [pipe.desk.held(*of) for of in (("k", Kind.REQUESTS), ("k", Kind.CONCURRENT), ("c", Kind.REQUESTS))] == [
        0
    ] * 3


async def test_who_is_refused_for_one_limit_takes_no_permit_from_other_replicas():
    """A permit that came with the answer goes back at once, not when the next second ticks."""
    pipe = Pipe()
    limits = limits_over(pipe)
    terms = Terms(subject="k", limits={Kind.TOKENS: 100, Kind.CONCURRENT: 2})
    running = await limits.admit(terms, tokens=60)
    with pytest.raises(TollbridgeError, match="tokens per minute"):
        await limits.admit(terms, tokens=60)
    async with asyncio.timeout(20):
        while pipe.desk.held("k", Kind.CONCURRENT) > 1:  # noqa: ASYNC110  no event says so
            await asyncio.sleep(0.01)
    running.end()


async def test_many_idle_keys_hold_nobody_up():
    """Others run between them, though each is looked at every second."""
    limits = limits_over(Pipe())
    for index in range(2000):
        limits.figures(Terms(subject=f"k{index}", limits=TERMS.limits))
    looking = asyncio.create_task(limits.tick())
    turns = 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 2
    assert len(limits) == 2000


async def test_nobody_waits_for_ever_for_a_question_that_broke():
    """Whatever it was, they are told, and the next one asks anew."""
    pipe = Pipe()
    limits = limits_over(pipe)
    answer = pipe.desk.answer
    pipe.desk.answer = lambda _: auth_pb2.LimitLease(kind=7)  # no answer at all
    with pytest.raises(TollbridgeError) as refused:
        async with asyncio.timeout(20):
            await limits.admit(TERMS, tokens=0)
    assert refused.value.code is Code.INTERNAL
    pipe.desk.answer = answer
    (await limits.admit(TERMS, tokens=0)).end()
