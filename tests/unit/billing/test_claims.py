"""Claims on idempotency keys, on a real PostgreSQL: one runner at a time, one request id, a day long."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
import structlog

from chassis import db
from chassis.ids import uuid7
from services.billing.claim_store import Asked
from services.billing.idempotency import LIVES_S, Claims, Outcome, Verdict
from tests.patience import promised
from tests.unit.billing.hearing import Hearing


@pytest.fixture
async def pool(billing_url: str) -> AsyncIterator[db.Pool]:
    """The service's pool."""
    made = await db.open_pool(billing_url, role="billing", max_size=4)
    made.timeout = promised(made.timeout)
    yield made
    await made.close()


@pytest.fixture
def claims(pool: db.Pool) -> Claims:
    """What is tested, in a process that has heard everybody for as long as matters."""
    listening = Hearing()
    listening.hear(LIVES_S)
    return Claims(pool=pool, listening=listening, log=structlog.get_logger())


def asked(key: str = "", *, customer: str = "c", body: bytes = b"{}", spender: str = "s") -> Asked:
    return Asked(
        customer_id=customer,
        key=key or str(uuid4()),
        body_hash=hashlib.sha256(body).digest(),
        call_id=uuid7(),
        spender=spender,
    )


async def test_of_twenty_at_once_one_runs(claims: Claims):
    """The others are told whose it is, and a repeated call is told what it was told."""
    calls = [asked("twenty") for _ in range(20)]
    found = await asyncio.gather(*(claims.claim(call) for call in calls))
    assert Counter(verdict for verdict, _ in found) == {Verdict.NEW: 1, Verdict.RUNNING: 19}
    assert len({request_id for _, request_id in found}) == 1
    assert await asyncio.gather(*(claims.claim(call) for call in calls)) == found


async def test_another_body_is_a_mismatch_and_another_customer_another_key(claims: Claims):
    """A key stands for one request of one customer."""
    first = asked()
    await claims.claim(first)
    verdict, _ = await claims.claim(asked(first.key, body=b"[]"))
    assert verdict is Verdict.MISMATCH
    other = asked(first.key, customer="d", body=b"[]")
    assert await claims.claim(other) == (Verdict.NEW, other.call_id)


async def test_an_answered_key_never_runs_again(claims: Claims):
    """Whatever comes late: a release, a lapse, the end of its spender."""
    first = asked(spender="answers")
    await claims.claim(first)
    await claims.end(first.call_id, Outcome.ANSWERED)
    await claims.end(first.call_id, Outcome.RELEASED)
    await claims.end(first.call_id, Outcome.LAPSED)
    await claims.state(spender="answers", call_ids=[], spender_ended=True)
    assert await claims.claim(asked(first.key)) == (Verdict.ANSWERED, first.call_id)
    assert (await claims.claim(asked(first.key, body=b"[]")))[0] is Verdict.MISMATCH


async def test_a_released_key_is_new(claims: Claims):
    """What came to nothing runs anew, even with another body."""
    first = asked()
    await claims.claim(first)
    await claims.end(first.call_id, Outcome.RELEASED)
    again = asked(first.key, body=b"[]")
    assert await claims.claim(again) == (Verdict.NEW, again.call_id)


async def test_who_falls_silent_is_taken_over_under_the_first_request_id(claims: Claims, billing_url: str):
    """A renewed claim is not; the former runner loses it, and can't end what is no longer its own."""
    first = asked()
    await claims.claim(first)
    assert await claims.state(spender="s", call_ids=[first.call_id], spender_ended=False) == []
    assert (await claims.claim(asked(first.key)))[0] is Verdict.RUNNING
    silent(billing_url, first)
    second = asked(first.key, spender="t")
    assert await claims.claim(second) == (Verdict.TAKEN_OVER, first.call_id)
    assert await claims.claim(second) == (Verdict.TAKEN_OVER, first.call_id)
    assert await claims.state(spender="s", call_ids=[first.call_id], spender_ended=False) == [first.call_id]
    await claims.end(first.call_id, Outcome.RELEASED)
    assert (await claims.claim(asked(first.key)))[0] is Verdict.RUNNING
    await claims.end(second.call_id, Outcome.LAPSED)
    assert await claims.claim(asked(first.key)) == (Verdict.TAKEN_OVER, first.call_id)


async def test_the_claims_of_a_dead_spender_can_be_taken_over_at_once(claims: Claims):
    """Nobody waits for a process that is known to be no more."""
    first, other = asked(spender="dead"), asked(spender="alive")
    await claims.claim(first)
    await claims.claim(other)
    await claims.state(spender="dead", call_ids=[], spender_ended=True)
    assert await claims.claim(asked(first.key)) == (Verdict.TAKEN_OVER, first.call_id)
    assert (await claims.claim(asked(other.key)))[0] is Verdict.RUNNING


async def test_a_key_is_forgotten_after_its_day_unless_it_still_runs(pool: db.Pool, claims: Claims, billing_url: str):
    """Pruned or not, an old key is as if it had never been used."""
    brief = Claims(pool=pool, listening=Hearing(), log=structlog.get_logger(), kept_s=0.0)
    first, running, pruned = asked(), asked(), asked()
    for call in (first, running, pruned):
        await claims.claim(call)
    await claims.end(first.call_id, Outcome.ANSWERED)
    again = asked(first.key)
    assert await brief.claim(again) == (Verdict.NEW, again.call_id)
    await claims.end(pruned.call_id, Outcome.ANSWERED)
    assert await claims.prune() == 0
    assert await brief.prune() >= 1
    assert (await claims.claim(asked(pruned.key)))[0] is Verdict.NEW
    assert (await brief.claim(asked(running.key)))[0] is Verdict.RUNNING


def silent(billing_url: str, call: Asked) -> None:
    """The claim was not renewed for as long as it lives."""
    with psycopg.connect(billing_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE billing.idempotency_claims SET alive_until = now() - interval '1 ms' WHERE call_id = %s",
            (call.call_id,),
        )
