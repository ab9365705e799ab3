"""Leased limits on real PostgreSQL, asked of two auth replicas over gRPC."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import LiteralString

import pytest

from chassis import db
from chassis.errors import Code
from services.auth import limit_store
from services.auth.limit_windows import Kind
from tests.unit.auth.replica import Replica, refused, running
from tollbridge.auth.v1 import auth_pb2 as pb

REQUESTS, TOKENS, CONCURRENT = pb.LIMIT_KIND_REQUESTS, pb.LIMIT_KIND_TOKENS, pb.LIMIT_KIND_CONCURRENT


@pytest.fixture(scope="module")
async def pair(database: str) -> AsyncIterator[tuple[Replica, Replica]]:
    async with running(database) as one, running(database) as two:
        yield one, two


class Spender:
    """One incarnation that numbers its statements."""

    def __init__(self) -> None:
        self.id = str(uuid.uuid4())
        self.numbers = itertools.count(1)
        self.last = 0

    async def lease(self, replica: Replica, subject: str, *, number: int = 0, **said: object) -> pb.LimitLease:
        """One statement about one limit."""
        said.setdefault("kind", REQUESTS)
        said.setdefault("wanted", int(said.get("open", 0)) + int(said.get("needed", 0)))  # type: ignore[call-overload]
        self.last = number or next(self.numbers)
        request = pb.LeaseLimitsRequest(
            spender=self.id, subject=subject, since=1, number=self.last, limits=[pb.LimitStatement(**said)]
        )
        answer = await replica.call("LeaseLimits", request, pb.LeaseLimitsResponse)
        assert answer.ttl_s == 30
        return answer.leases[0]

    async def state(self, replica: Replica, *subjects: str, **more: object) -> None:
        """One page that lists these."""
        request = pb.StateLimitsRequest(spender=self.id, as_of=self.last, subjects=subjects, **more)
        await replica.call("StateLimits", request, pb.StateLimitsResponse)


async def test_a_limit_is_shared_by_replicas_and_spenders(pair: tuple[Replica, Replica]) -> None:
    """What one spender holds by one replica, another doesn't get by the other."""
    one, two, subject = Spender(), Spender(), str(uuid.uuid4())
    assert (await one.lease(pair[0], subject, limit=60, needed=40)).held == 40
    short = await two.lease(pair[1], subject, limit=60, needed=40)
    assert (short.held, short.remaining, short.retry_after_ms) == (20, 20, 60_000)
    assert (await one.lease(pair[1], subject, limit=60, wanted=0)).held == 0
    assert (await two.lease(pair[0], subject, limit=60, needed=40)).held == 40


async def test_what_was_spent_counts_whoever_asks(pair: tuple[Replica, Replica]) -> None:
    """Units that were spent are held by nobody and still count, from when they were spent."""
    one, two, subject = Spender(), Spender(), str(uuid.uuid4())
    await one.lease(pair[0], subject, limit=60, needed=40)
    spent = [pb.LimitSpent(units=30, age_ms=50_000), pb.LimitSpent(units=10)]
    assert (await one.lease(pair[0], subject, limit=60, spent=40, lately=spent)).held == 0
    short = await two.lease(pair[1], subject, limit=60, needed=50)
    assert (short.held, short.remaining) == (20, 20)
    assert 5_000 < short.retry_after_ms <= 10_500


async def test_sixty_a_minute_is_never_sixty_one_whoever_is_asked(pair: tuple[Replica, Replica]) -> None:
    """Six spenders with crowds of their own ask two replicas at once, and spend what they get."""
    subject, spenders = str(uuid.uuid4()), [Spender() for _ in range(6)]
    admitted: list[int] = []

    async def crowd(number: int) -> None:
        spent, new = 0, 0
        for turn in range(6):
            replica, told = pair[(number + turn) % 2], [pb.LimitSpent(units=new, age_ms=turn)]
            lease = await spenders[number].lease(
                replica, subject, limit=60, spent=spent, lately=told, needed=number + 1
            )
            new = lease.held
            spent += new
            admitted.append(new)

    await asyncio.gather(*(crowd(number) for number in range(6)))
    assert sum(admitted) == 60


async def test_five_at_once_are_never_six(pair: tuple[Replica, Replica]) -> None:
    """Thirty requests over two replicas; each permit is handed on as soon as it is given back."""
    subject, running, most, served = str(uuid.uuid4()), 0, 0, 0

    async def client(number: int) -> None:
        nonlocal running, most, served
        one, replica = Spender(), pair[number % 2]
        for _ in range(2_000):
            if (await one.lease(replica, subject, kind=CONCURRENT, limit=5, needed=1)).held:
                break
            await asyncio.sleep(0.01)
        running += 1
        most = max(most, running)
        served += 1
        await asyncio.sleep(0.02)
        running -= 1
        await one.lease(pair[(number + 1) % 2], subject, kind=CONCURRENT, limit=5)

    waiting = iter(range(30))
    await asyncio.gather(*(_each(client, waiting) for _ in range(12)))
    assert most <= 5
    assert (served, await held(pair[0], subject)) == (30, 0)


async def _each(client: Callable[[int], Awaitable[None]], numbers: Iterator[int]) -> None:
    for number in numbers:
        await client(number)


async def test_what_an_ended_spender_ran_is_free_at_once_and_what_it_held_of_windows_counts(
    pair: tuple[Replica, Replica],
) -> None:
    """Nobody knows whether it spent them, so they count as spent now."""
    gone, other, subject = Spender(), Spender(), str(uuid.uuid4())
    await gone.lease(pair[0], subject, limit=10, needed=4)
    await gone.lease(pair[0], subject, kind=CONCURRENT, limit=3, needed=3)
    await gone.state(pair[1], spender_ended=True)
    assert (await other.lease(pair[0], subject, kind=CONCURRENT, limit=3, needed=3)).held == 3
    assert (await other.lease(pair[0], subject, limit=10, needed=10)).held == 6


async def test_a_silent_spender_is_ended_after_its_lease_and_one_who_speaks_is_not(
    pair: tuple[Replica, Replica],
) -> None:
    """Only once somebody has listened for as long; whichever replica did."""
    silent, speaks, asks, subject = Spender(), Spender(), Spender(), str(uuid.uuid4())
    for one in (silent, speaks):
        await one.lease(pair[0], subject, kind=CONCURRENT, limit=5, needed=2)
    desks = [each.parts.limit_desk for each in pair]
    await execute(pair[0], "UPDATE auth.limit_spenders SET stated_at = stated_at - interval '36 s'")
    await speaks.state(pair[1], subject)
    await execute(pair[0], "DELETE FROM auth.limit_sweeps")
    await desks[0].sweep()
    assert await held(pair[0], subject) == 4, "nobody had listened yet"
    await execute(pair[0], "UPDATE auth.limit_sweeps SET listening_since = listening_since - interval '36 s'")
    await asyncio.gather(*(desk.sweep() for desk in desks))
    assert await held(pair[0], subject) == 2
    assert (await asks.lease(pair[1], subject, kind=CONCURRENT, limit=5, needed=5)).held == 3
    await execute(pair[0], "UPDATE auth.limit_sweeps SET swept_at = swept_at - interval '11 s'")
    await execute(pair[0], "UPDATE auth.limit_spenders SET stated_at = stated_at - interval '36 s'")
    await desks[1].sweep()
    assert await held(pair[0], subject) == 5, "nobody had listened meanwhile"


async def test_a_full_statement_frees_what_it_does_not_list_of_its_time(pair: tuple[Replica, Replica]) -> None:
    """In its range, and never what was leased after it was made."""
    one, subjects = Spender(), sorted(str(uuid.uuid4()) for _ in range(4))
    for subject in subjects[:3]:
        await one.lease(pair[0], subject, limit=9, needed=2)
    as_of = one.last
    await one.lease(pair[0], subjects[3], limit=9, needed=2)
    one.last = as_of
    await one.state(pair[1], until_id=subjects[2])
    assert [await held(pair[0], each) for each in subjects] == [0, 0, 2, 2]
    await one.state(pair[1])
    assert [await held(pair[0], each) for each in subjects] == [0, 0, 0, 2]


async def test_a_lease_asked_again_is_the_same_lease(pair: tuple[Replica, Replica]) -> None:
    """A lost answer is asked for again, of either replica, also at the same time."""
    one, subject = Spender(), str(uuid.uuid4())
    answers = await asyncio.gather(
        *(one.lease(replica, subject, number=7, limit=60, needed=8) for replica in (*pair, *pair))
    )
    assert {answer.held for answer in answers} == {8}
    assert (await one.lease(pair[0], subject, number=6, limit=60, needed=30)).held == 8
    assert await held(pair[0], subject) == 8


async def test_counts_of_idle_subjects_are_deleted_when_they_count_no_more(pair: tuple[Replica, Replica]) -> None:
    """Those of busy ones go as they are met."""
    one, subjects = Spender(), [str(uuid.uuid4()) for _ in range(2)]
    spent = [pb.LimitSpent(units=1, age_ms=1)]
    for subject in subjects:
        await one.lease(pair[0], subject, limit=9, spent=1, lately=spent)
    await execute(pair[0], "UPDATE auth.limit_counts SET bucket = bucket - 300")
    await one.lease(pair[0], subjects[0], limit=9, spent=1)
    assert [await counts(pair[0], each) for each in subjects] == [0, 1]
    await pair[1].parts.limit_desk.forget_old()
    assert [await counts(pair[0], each) for each in subjects] == [0, 1], "what may be met is left"
    await execute(pair[0], "UPDATE auth.limit_counts SET bucket = bucket - 300")
    await pair[1].parts.limit_desk.forget_old()
    assert [await counts(pair[0], each) for each in subjects] == [0, 0]


async def test_a_subject_that_is_locked_is_a_refusal_to_try_again_and_others_go_on(
    pair: tuple[Replica, Replica],
) -> None:
    """A replica that stands still in the middle of a lease holds up its subject alone, and that not for long."""
    one, stuck = Spender(), uuid.uuid4()
    async with db.transaction(pair[0].pool) as connection:
        await limit_store.read_books(connection, spender=uuid.uuid4(), subject=stuck, kinds=[Kind.REQUESTS])
        waiting = asyncio.create_task(refused(one.lease(pair[1], str(stuck), limit=9, needed=1)))
        assert (await one.lease(pair[1], str(uuid.uuid4()), limit=9, needed=1)).held == 1
        assert await waiting is Code.UNAVAILABLE
    assert (await one.lease(pair[1], str(stuck), limit=9, needed=1)).held == 1


@pytest.mark.parametrize(
    "limits",
    [
        [],
        [pb.LimitStatement(limit=1)],
        [pb.LimitStatement(kind=REQUESTS)],
        [pb.LimitStatement(kind=REQUESTS, limit=1)] * 2,
        [pb.LimitStatement(kind=REQUESTS, limit=1, wanted=-1)],
        [pb.LimitStatement(kind=TOKENS, limit=1, spent=2**62)],
        [pb.LimitStatement(kind=CONCURRENT, limit=1, spent=1)],
    ],
)
async def test_statements_that_can_not_be_are_refused(pair: tuple[Replica, Replica], limits: object) -> None:
    """With the name of what is wrong."""
    ids = {name: str(uuid.uuid4()) for name in ("spender", "subject")}
    request = pb.LeaseLimitsRequest(**ids, since=1, number=1, limits=limits)
    assert await refused(pair[0].call("LeaseLimits", request, pb.LeaseLimitsResponse)) is Code.INVALID_REQUEST


async def test_what_is_leased_is_shown(pair: tuple[Replica, Replica]) -> None:
    """By kind and outcome, and by nothing that a caller chooses."""
    one, subject = Spender(), str(uuid.uuid4())
    replica = pair[0]
    before = replica.parts.limit_desk.figures.asks.copy()
    for needed in (2, 2, 2):
        await one.lease(replica, subject, kind=TOKENS, limit=3, open=0, wanted=needed, needed=needed)
        await Spender().lease(replica, subject, kind=TOKENS, limit=3, needed=needed)
    await replica.parts.limit_desk.sweep()
    asks = replica.parts.limit_desk.figures.asks - before
    assert {outcome: count for (_, outcome), count in asks.items()} == {"granted": 3, "partly": 1, "refused": 2}
    shown = {sample.name for metric in replica.parts.collector().collect() for sample in metric.samples}
    assert {"tollbridge_auth_limit_asks_total", "tollbridge_auth_limit_units_held"} <= shown


async def execute(replica: Replica, query: LiteralString) -> None:
    async with db.transaction(replica.pool) as connection:
        await connection.execute(query)


async def held(replica: Replica, subject: str) -> int:
    return await _sum(replica, "SELECT coalesce(sum(held), 0) FROM auth.limit_leases WHERE subject = %s", subject)


async def counts(replica: Replica, subject: str) -> int:
    return await _sum(replica, "SELECT count(*) FROM auth.limit_counts WHERE subject = %s", subject)


async def _sum(replica: Replica, query: LiteralString, subject: str) -> int:
    async with db.transaction(replica.pool) as connection:
        row = await (await connection.execute(query, (subject,))).fetchone()
    assert row is not None
    return int(row[0])
