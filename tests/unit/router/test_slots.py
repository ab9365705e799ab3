"""Slots of provider accounts over one real PostgreSQL, by two replicas of router."""

import asyncio
import time
import uuid

import pytest

from chassis import db, ids
from chassis.errors import Code, TollbridgeError
from services.router import store
from services.router.attempts import Page
from services.router.breaker import Verdict
from services.router.waiting_room import WaitingRoom
from tests.patience import promised
from tests.unit.router.pair import Pair, ask, end, refusal, rows, slots


async def test_slots_are_never_exceeded_by_two_replicas(pair: Pair) -> None:
    """Sixty requests at once over two replicas share five slots, and each slot is handed on when it is given back."""
    running: dict[str, int] = {"a1": 0, "a2": 0}
    most = dict(running)

    async def one(number: int) -> None:
        parts = (pair.one, pair.two)[number % 2]
        wanted = ask("narrow")
        deadline = time.monotonic() + 30
        while True:
            try:
                attempt = await parts.decider.decide(wanted)
                break
            except TollbridgeError as error:
                if error.code is not Code.OVERLOADED or time.monotonic() > deadline:
                    raise
        account = attempt.target.account.id
        running[account] += 1
        most[account] = max(most[account], running[account])
        await asyncio.sleep(0.005)
        running[account] -= 1
        await parts.decider.finish(end(wanted.attempt_id))

    await asyncio.gather(*(one(number) for number in range(60)))
    assert most["a1"] <= 2
    assert most["a2"] <= 3
    assert await rows(pair) == {}


async def test_a_busy_pool_answers_overloaded_after_the_wait(pair: Pair) -> None:
    """When all slots stay busy for `slots.wait_s`, the refusal says when to come back, and takes nothing."""
    held = [await pair.one.decider.decide(ask("narrow")) for _ in range(5)]
    began = time.monotonic()
    error = await refusal(pair.two.decider.decide(ask("narrow")))
    assert (error.code, error.retry_after_s) == (Code.OVERLOADED, 1)
    assert 0.2 < time.monotonic() - began < promised(3)
    assert sum((await rows(pair)).values()) == len(held) == 5


async def test_whom_the_line_can_not_serve_in_time_is_told_so_at_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the time when there may be room in it; who finds a slot free is served, whatever the line's pace was."""
    monkeypatch.setattr(WaitingRoom, "wait_s", lambda *_: 9.3)
    held = [await pair.one.decider.decide(ask("narrow")) for _ in range(5)]
    error = await refusal(pair.one.decider.decide(ask("narrow")))
    assert (error.code, error.retry_after_s) == (Code.OVERLOADED, pytest.approx(9.0))
    assert pair.one.decider.waiting == 0
    assert sum((await rows(pair)).values()) == len(held) == 5


async def test_a_freed_slot_goes_to_who_waits(pair: Pair) -> None:
    """A request in line gets the slot that another replica's attempt gives back."""
    held = [await pair.one.decider.decide(ask("narrow")) for _ in range(5)]
    waiting = asyncio.create_task(pair.two.decider.decide(ask("narrow")))
    await asyncio.sleep(0)
    await pair.one.decider.finish(end(held[0].id))
    attempt = await waiting
    assert attempt.target.account.id == held[0].target.account.id


async def test_a_slot_taken_for_who_has_left_is_given_back_by_the_end_of_the_attempt(pair: Pair) -> None:
    """The end comes without an account, of an attempt that this replica has never decided on."""
    wanted = ask("narrow")
    deciding = asyncio.create_task(pair.one.decider.decide(wanted))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    deciding.cancel()
    await pair.one.decider.finish(end(wanted.attempt_id, Verdict.NOTHING))
    assert deciding.cancelled()
    assert await rows(pair) == {}


@pytest.mark.parametrize("model", ["narrow", "free"])
async def test_decide_asked_again_is_the_same_decision(pair: Pair, model: str) -> None:
    """A lost reply is asked again: same account, one slot, also when both calls run at once."""
    wanted = ask(model)
    first, second = await asyncio.gather(pair.one.decider.decide(wanted), pair.one.decider.decide(wanted))
    third = await pair.one.decider.decide(wanted)
    assert first.target.account.id == second.target.account.id == third.target.account.id
    assert sum((await rows(pair)).values()) == (1 if model == "narrow" else 0)


async def test_another_replica_finds_the_slot_of_the_attempt(pair: Pair) -> None:
    """Asked of the other replica, an attempt keeps the slot that it has."""
    for _ in range(4):
        wanted = ask("narrow")
        one = await pair.one.decider.decide(wanted)
        two = await pair.two.decider.decide(wanted)
        assert one.target.account.id == two.target.account.id
    assert sum((await rows(pair)).values()) == 4


async def test_unlimited_accounts_need_no_database(pair: Pair) -> None:
    """With PostgreSQL gone, accounts without slots are still decided on, and limited ones refuse within a second."""
    await pair.pool.close()
    attempt = await pair.one.decider.decide(ask("free"))
    await pair.one.decider.finish(end(attempt.id))
    began = time.monotonic()
    assert (await refusal(pair.one.decider.decide(ask("narrow")))).code is Code.UNAVAILABLE
    assert time.monotonic() - began < promised(1.5)


async def test_a_statement_frees_what_it_does_not_list(pair: Pair) -> None:
    """Of its spender and of its time: what began after it was made stays, however late it is executed."""
    spender = str(uuid.uuid4())
    at = [str(ids.uuid7_at(1_700_000_000_000 + ms)) for ms in range(5)]
    for attempt_id in at[:3]:
        await pair.one.decider.decide(ask("narrow", spender=spender, attempt_id=attempt_id))
    other = await pair.one.decider.decide(ask("narrow"))
    await pair.two.decider.state(Page(spender=spender, as_of=at[2], listed=frozenset({at[1]})))
    assert await slots(pair) == {at[1], at[2], other.id}
    await pair.two.decider.state(Page(spender=spender, as_of=at[4], listed=frozenset({at[1]}), until_id=at[2]))
    assert await slots(pair) == {at[1], at[2], other.id}
    await pair.two.decider.state(Page(spender=spender, as_of=at[4], listed=frozenset(), from_id=at[2]))
    assert await slots(pair) == {at[1], other.id}


async def test_silent_spenders_lose_their_slots(pair: Pair) -> None:
    """Only slots of spenders without a statement for the whole time are freed."""
    silent, speaks = await pair.one.decider.decide(ask("narrow")), await pair.one.decider.decide(ask("narrow"))
    async with db.transaction(pair.pool) as connection:
        await connection.execute("UPDATE router.slots SET taken_at = taken_at - interval '1 minute'")
    await pair.one.decider.state(Page(spender=speaks.spender, as_of=speaks.id, listed=frozenset({speaks.id})))
    freed = await db.in_transaction(pair.pool, lambda connection: store.expire_silent(connection, silent_s=35))
    assert freed == 1
    assert sum((await rows(pair)).values()) == 1
    assert silent.id != speaks.id
