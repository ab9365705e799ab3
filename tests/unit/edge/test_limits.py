"""Limits over HTTP: who is let in, what every answer says, and how a refusal looks."""

import asyncio
import json
import time

import aiohttp
import pytest

from services.edge.http.limit_headers import duration
from services.edge.limits import limits
from services.edge.limits.limit_owner import terms_of
from services.edge.limits.terms import Kind, Terms
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import CUSTOMER
from tollbridge.auth.v1 import auth_pb2

REQUESTS = auth_pb2.LIMIT_KIND_REQUESTS
TOKENS = auth_pb2.LIMIT_KIND_TOKENS
CONCURRENT = auth_pb2.LIMIT_KIND_CONCURRENT


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, too, answers say what auth says."""
    monkeypatch.setattr(limits, "LOOK_S", 20.0)


async def said(
    world: World, body: dict | bytes | None = None, **options
) -> tuple[int, "aiohttp.typedefs.CIMultiDictProxy[str]", dict]:
    """Status, headers and body of an answer."""
    async with world.post(world.body() if body is None else body, **options) as answer:
        text = await answer.text()
        return answer.status, answer.headers, json.loads(text) if text.startswith("{") else {}


async def test_a_key_gets_as_many_requests_a_minute_as_its_plan_says(world: World):
    """The rest is refused with the time to come again, in OpenAI's words."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=3)
    answers = await asyncio.gather(*(said(world) for _ in range(8)))
    assert sorted(status for status, _, _ in answers) == [200] * 3 + [429] * 5
    for status, headers, body in answers:
        assert headers["x-ratelimit-limit"] == headers["x-ratelimit-limit-requests"] == "3"
        assert "x-ratelimit-limit-tokens" not in headers
        if status == 429:
            assert 1 <= int(headers["retry-after"]) <= 60
            assert body["error"]["code"] == "rate_limit_exceeded"
            assert "x-should-retry" not in headers
            assert headers["x-ratelimit-remaining"] == "0"
    await until(lambda: world.owners.limits.counted(CUSTOMER, REQUESTS) == 3)


async def test_rejecting_asks_nobody_again_for_a_moment(world: World):
    """A flood of refused requests costs auth a question now and then."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=1)
    assert (await said(world))[0] == 200
    assert (await said(world))[0] == 429
    asked = world.owners.limits.leased
    assert {status for status, _, _ in await asyncio.gather(*(said(world) for _ in range(30)))} == {429}
    assert world.owners.limits.leased <= asked + 15


async def test_who_is_refused_for_other_reasons_uses_nothing_up(world: World):
    """Not for a bad body, an unknown model, or no money; and each of these answers says what is left."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=2, concurrent=1, tokens_per_minute=5000)
    for body, status in ((b"{", 400), ({"model": "nobody", "messages": []}, 400), (world.body() | {"model": "x"}, 404)):
        found, headers, _ = await said(world, body)
        assert found == status
        assert headers["x-ratelimit-remaining"] == "2"
        assert headers["x-ratelimit-remaining-tokens"] == "5000"
        assert headers["x-ratelimit-reset-tokens"]
    world.truth.balance_nano_usd = 0
    assert (await said(world))[0] == 402
    world.truth.balance_nano_usd = 1_000_000_000
    assert [(await said(world))[0] for _ in range(3)] == [200, 200, 429]


async def test_tokens_are_counted_by_what_was_really_used(world: World):
    """The estimate is held while it runs; then what the provider counted is."""
    world.truth.limits = auth_pb2.Limits(tokens_per_minute=5000)
    status, headers, body = await said(world, world.body())
    assert status == 200
    assert headers["x-ratelimit-limit-tokens"] == "5000"
    assert "x-ratelimit-limit" not in headers
    used = body["usage"]["total_tokens"]
    assert int(headers["x-ratelimit-remaining-tokens"]) == 5000 - used
    await until(lambda: world.owners.limits.counted(CUSTOMER, TOKENS) == used)
    await until(lambda: world.owners.limits.held(CUSTOMER, TOKENS) == 0)


async def test_a_request_larger_than_its_limit_is_not_tried_again(world: World):
    """Waiting would not help."""
    world.truth.limits = auth_pb2.Limits(tokens_per_minute=400)
    status, headers, body = await said(world)
    assert status == 429
    assert headers["x-should-retry"] == "false"
    assert "400" in body["error"]["message"]
    assert (await said(world, world.body() | {"max_tokens": 50}))[0] == 200


async def test_more_at_once_than_allowed_are_refused_and_the_next_is_let_in(world: World):
    """A permit is free again with the last bytes of its stream, and when its client has left."""
    world.truth.limits, world.truth.on_disconnect = auth_pb2.Limits(concurrent=2), "cancel"
    slow = world.body({"first_byte_ms": 60_000})
    running = [asyncio.create_task(said(world, slow)) for _ in range(2)]
    await until(lambda: world.owners.limits.held(CUSTOMER, CONCURRENT) == 2)
    status, headers, body = await said(world)
    assert status == 429
    assert headers["retry-after"] == "1"
    assert body["error"]["code"] == "rate_limit_exceeded"
    for task in running:
        task.cancel()
    await until(lambda: world.owners.limits.held(CUSTOMER, CONCURRENT) == 0)
    for _ in range(5):
        assert {status for status, _, _ in await asyncio.gather(said(world), said(world))} == {200}
    await until(lambda: world.owners.limits.held(CUSTOMER, CONCURRENT) == 0)


async def test_an_answer_that_is_given_again_counts_once(world: World):
    """Its key stands for one request."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=2)
    first = await said(world, headers={"idempotency-key": "k-1"})
    again = await said(world, headers={"idempotency-key": "k-1"})
    assert (first[0], again[0]) == (200, 200)
    assert again[1]["idempotency-replayed"] == "true"
    assert again[1].getall("x-ratelimit-remaining") == ["1"]
    assert [(await said(world))[0] for _ in range(2)] == [200, 429]


async def test_a_refused_request_leaves_its_idempotency_key_free(world: World):
    """It can be sent again under it."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=1)
    assert (await said(world))[0] == 200
    assert (await said(world, headers={"idempotency-key": "k-2"}))[0] == 429
    world.truth.limits = auth_pb2.Limits(requests_per_minute=2)
    world.admission.forget(customer_id=CUSTOMER)
    found, deadline = 429, time.monotonic() + 30
    while found == 429:  # the refusal is remembered for a moment
        assert time.monotonic() < deadline
        found, _, _ = await said(world, headers={"idempotency-key": "k-2"})
    assert found == 200


async def test_without_limits_nobody_is_asked_and_nothing_is_said(world: World):
    """Such a key costs nothing."""
    status, headers, _ = await said(world)
    assert status == 200
    assert not any(name.lower().startswith("x-ratelimit") for name in headers)
    assert world.owners.limits.leased == 0


async def test_reset_is_when_the_whole_limit_is_free_again(world: World):
    """In seconds since the epoch, and as a duration."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=5)
    _, headers, _ = await said(world)
    assert 0 <= int(headers["x-ratelimit-reset"]) - time.time() <= 61
    assert headers["x-ratelimit-reset-requests"] in ("59s", "1m0s")


async def test_tokens_that_were_not_used_are_there_for_other_edges_at_once(world: World):
    """An estimate of most of a limit does not block it until the next second."""
    world.truth.limits = auth_pb2.Limits(tokens_per_minute=1500)
    for _ in range(3):
        assert (await said(world, world.body() | {"max_tokens": 1000}))[0] == 200
        await until(lambda: world.owners.limits.held(CUSTOMER, TOKENS) == 0, within_s=20)


@pytest.mark.parametrize(("scope", "subject"), [("", "key"), ("key", "key"), ("customer", "customer")])
def test_a_plan_says_who_shares_its_limits(scope: str, subject: str):
    """A key has its own, or all of a customer's share."""
    limits = auth_pb2.Limits(requests_per_minute=7, concurrent=2, scope=scope)
    terms = terms_of(auth_pb2.AuthorizeResponse(customer_id="customer", key_id="key", limits=limits))
    assert terms == Terms(subject=subject, limits={Kind.REQUESTS: 7, Kind.CONCURRENT: 2})
    assert terms_of(auth_pb2.AuthorizeResponse(customer_id="customer", key_id="key")) is None


def test_a_key_may_have_limits_of_its_own_besides_those_that_are_shared():
    """Both hold; where nothing is shared, its own hold alone."""
    shared = auth_pb2.Limits(requests_per_minute=7, scope="customer")
    reply = auth_pb2.AuthorizeResponse(
        customer_id="customer", key_id="key", limits=shared, own_limits=auth_pb2.Limits(tokens_per_minute=5)
    )
    own = Terms(subject="key", limits={Kind.TOKENS: 5})
    terms = terms_of(reply)
    assert terms == Terms(subject="customer", limits={Kind.REQUESTS: 7}, own=own)
    assert terms is not None
    assert (terms.has(Kind.TOKENS), terms.has(Kind.CONCURRENT)) == (True, False)
    reply.limits.requests_per_minute = 0
    assert terms_of(reply) == own


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0201, "21ms"), (1, "1s"), (58.2, "59s"), (59.5, "1m0s"), (60, "1m0s")],
)
def test_durations_are_written_as_openai_does_and_never_too_short(seconds: float, text: str):
    """So a client that waits for one does not come too early."""
    assert duration(seconds) == text


async def test_an_edge_that_stops_gives_everything_back_and_tells_what_was_spent(world: World):
    """Nothing that it held for requests to come is missing elsewhere."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=6000, concurrent=100)
    for _ in range(5):
        await asyncio.gather(*(said(world) for _ in range(4)))
    await world.relay.drain(grace_s=5)
    await world.relay.tools.limits.drain()
    assert world.owners.limits.counted(CUSTOMER, REQUESTS) == 20
    assert world.owners.limits.held(CUSTOMER, REQUESTS) == world.owners.limits.held(CUSTOMER, CONCURRENT) == 0
