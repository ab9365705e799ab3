"""Leased limits on real PostgreSQL, asked of two auth replicas over gRPC."""

import itertools
import uuid
from collections.abc import AsyncIterator

import pytest

from tests.unit.auth.replica import Replica, running
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
