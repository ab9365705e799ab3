"""A replica of router that stood still for a while: what it missed it learns, and it acts on nothing that is over."""

import uuid

from chassis import db, ids
from chassis.errors import Code
from chassis.pipe_replica import SILENCE_S
from services.router.asked import Ask
from services.router.attempts import SILENT_S, Attempt, Page
from services.router.listening import BROKEN_S, Listening
from services.router.parts import Parts
from services.router.store_desk import SWEEP_EVERY_S
from tests.unit.router.pair import Pair, ask, end, handler, refusal, rows, slots
from tollbridge.router.v1 import router_pb2 as pb

BEGAN_MS = 1_700_000_000_000


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def load(parts: Parts, account_id: str) -> int:
    """What that replica shows as in use."""
    answer = await handler(parts, "ListAccounts")(pb.ListAccountsRequest(), None)
    assert isinstance(answer, pb.ListAccountsResponse)
    return {each.id: each.in_use for each in answer.accounts}[account_id]


def asked(model: str, spender: str, number: int) -> Ask:
    """The spender's attempt of that many milliseconds after its beginning."""
    return ask(model, spender=spender, attempt_id=str(ids.uuid7_at(BEGAN_MS + number)))


def stated(spender: str, number: int, *listed: Attempt) -> Page:
    """A statement of that moment."""
    return Page(
        spender=spender,
        as_of=str(ids.uuid7_at(BEGAN_MS + number)),
        listed=frozenset(attempt.id for attempt in listed),
    )


async def age(pair: Pair, *, seconds: int) -> None:
    """Everything in the database was said so much longer ago."""
    async with db.transaction(pair.pool) as connection:
        await connection.execute("UPDATE router.slots SET taken_at = taken_at - make_interval(secs => %s)", (seconds,))
        await connection.execute(
            "UPDATE router.spenders SET stated_at = stated_at - make_interval(secs => %s)", (seconds,)
        )


async def test_what_ended_while_a_replica_was_paused_is_over_there_too_after_one_statement(pair: Pair) -> None:
    """Its ends and its spender's statement went to the neighbour: the paused one reads them when it goes on."""
    spender = str(uuid.uuid4())
    runs, over = [await pair.one.decider.decide(asked("free", spender, number)) for number in range(2)]
    await pair.two.decider.finish(end(over.id))
    assert await load(pair.one, "b1") == 2
    await pair.two.decider.state(stated(spender, 10, runs))
    younger = await pair.one.decider.decide(asked("free", spender, 20))
    await pair.one.decider.catch_up()
    assert await load(pair.one, "b1") == 2
    await pair.two.decider.state(stated(spender, 30))
    await pair.one.decider.catch_up()
    assert await load(pair.one, "b1") == 0
    assert younger.target.account.id == "b1"


async def test_a_question_that_waited_out_the_pause_keeps_no_slot(pair: Pair) -> None:
    """It was answered by the neighbour and is over; the resumed replica decides it once more, until one statement."""
    spender = str(uuid.uuid4())
    for model in ("free", "narrow"):
        late = asked(model, spender, 1)
        await pair.two.decider.decide(late)
        await pair.two.decider.finish(end(late.attempt_id))
        held = await pair.one.decider.decide(late)
        assert await load(pair.one, held.target.account.id) == 1
        await pair.two.decider.state(stated(spender, 10))
        await pair.one.decider.catch_up()
        assert await load(pair.one, held.target.account.id) == 0
    assert await rows(pair) == {}


async def test_attempts_of_a_spender_that_died_weigh_nothing_after_its_lease(pair: Pair) -> None:
    """Nobody will state them again: after the time that its slots are kept, they are gone from every replica's book."""
    clock = Clock()
    pair.one.desk._listening = Listening(clock=clock)
    dead, lives = (asked("free", str(uuid.uuid4()), number) for number in range(2))
    pair.one.decider._clock = clock
    for each in (dead, lives):
        await pair.one.decider.decide(each)
    for _ in range(8):
        await pair.two.decider.state(stated(lives.spender, 2, await pair.one.decider.decide(lives)))
        assert await load(pair.one, "b1") == 2
        clock.now_s += SWEEP_EVERY_S
        await pair.one.desk.sweep_now()
        await pair.one.decider.catch_up()
    assert clock.now_s - 1000.0 > SILENT_S
    assert await load(pair.one, "b1") == 1


async def test_a_statement_that_waited_out_the_pause_renews_nothing(pair: Pair) -> None:
    """What the spender said before its last word is older than that: its lease runs from the last word."""
    spender = str(uuid.uuid4())
    held = await pair.two.decider.decide(asked("narrow", spender, 1))
    await pair.two.decider.state(stated(spender, 20, held))
    await age(pair, seconds=60)
    await pair.one.decider.state(stated(spender, 10, held))
    clock = Clock()
    pair.two.desk._listening = Listening(clock=clock)
    while sum((await rows(pair)).values()):
        assert clock.now_s - 1000.0 <= SILENT_S
        clock.now_s += SWEEP_EVERY_S
        await pair.two.desk.sweep_now()


async def test_a_replica_that_was_paused_for_longer_than_the_lease_calls_nobody_silent(pair: Pair) -> None:
    """Nobody could speak to it: slots stay until its spenders had a whole lease to state them, and only then go."""
    clock = Clock()
    pair.one.desk._listening = Listening(clock=clock)
    await pair.one.decider.decide(asked("narrow", str(uuid.uuid4()), 1))
    for _ in range(10):
        await pair.one.desk.sweep_now()
        clock.now_s += SWEEP_EVERY_S
    clock.now_s += 60
    await age(pair, seconds=60)
    resumed_s = clock.now_s
    while clock.now_s - resumed_s < SILENT_S:
        await pair.one.desk.sweep_now()
        assert sum((await rows(pair)).values()) == 1
        clock.now_s += SWEEP_EVERY_S
    await pair.one.desk.sweep_now()
    assert await rows(pair) == {}


def test_listening_begins_anew_after_each_gap() -> None:
    """A look that comes late is one by who stood still; trouble counts as a gap however short it was."""
    clock = Clock()
    listening = Listening(clock=clock)
    clock.now_s += BROKEN_S
    assert listening.goes_on() == BROKEN_S
    clock.now_s += BROKEN_S + 0.001
    assert listening.goes_on() == 0
    clock.now_s += 1
    assert listening.goes_on() == 1
    listening.broke()
    clock.now_s += 2
    assert listening.goes_on() == 2


async def test_the_locks_of_a_paused_replica_are_gone_before_its_calls_come_to_the_neighbour(pair: Pair) -> None:
    """PostgreSQL ends a transaction that stands still before a client gives the silent replica up."""
    async with db.transaction(pair.pool) as connection:
        cursor = await connection.execute(
            "SELECT setting::int / 1000.0 FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
        )
        row = await cursor.fetchone()
    assert row is not None
    assert 0 < row[0] < SILENCE_S


async def test_a_spender_that_speaks_again_has_its_running_attempts_counted_again(pair: Pair) -> None:
    """It stood still for longer than its lease while they ran at the provider: nobody else is let in beside them."""
    clock = Clock()
    pair.one.desk._listening = Listening(clock=clock)
    frozen, other = str(uuid.uuid4()), str(uuid.uuid4())
    held = [await pair.one.decider.decide(asked("narrow", frozen, number)) for number in range(5)]
    await age(pair, seconds=60)
    while await rows(pair):
        clock.now_s += SWEEP_EVERY_S
        await pair.one.desk.sweep_now()
    meanwhile = [await pair.two.decider.decide(asked("narrow", other, 10 + number)) for number in range(5)]
    await pair.two.decider.finish(end(held[0].id))
    await pair.two.decider.state(stated(frozen, 20, *held[1:]))
    assert sum((await rows(pair)).values()) == 9
    last = next(attempt for attempt in meanwhile if attempt.target.account == held[0].target.account)
    for attempt in meanwhile:
        if attempt is not last:
            await pair.two.decider.finish(end(attempt.id))
    assert (await refusal(pair.two.decider.decide(asked("narrow", other, 30)))).code is Code.OVERLOADED
    await pair.two.decider.finish(end(last.id))
    assert await slots(pair) == {attempt.id for attempt in held[1:]}
    assert (await pair.two.decider.decide(asked("narrow", other, 40))).target.account.id == held[0].target.account.id
