"""Large bodies share what memory there is for them, and give it back however their requests end."""

import asyncio
import json

import httpx
import pytest

from chassis.errors import TollbridgeError
from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.config import without_file
from services.edge.http.body_room import MOST_BYTES, SMALL_BYTES, BodyRoom
from services.edge.http.json_http import Caller
from services.edge.routes import quote, tasks
from tests.unit.edge.claim_desk import NOBODY
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY

LARGE = "x" * (3 * SMALL_BYTES)


async def test_a_large_body_that_there_is_no_room_for_is_refused(world: World):
    """The client is told to come again, and small requests are served meanwhile."""
    world.relay.bodies.left_bytes = 2 * SMALL_BYTES
    async with world.post(world.body(user=LARGE)) as response:
        assert (response.status, response.headers["retry-after"]) == (503, "1")
    async with world.post(world.body()) as response:
        assert response.status == 200
    assert world.relay.bodies.left_bytes == 2 * SMALL_BYTES
    await world.settled()


async def test_room_is_given_back_at_the_end(world: World):
    """Of an answer, of a refusal, and of a client that leaves while it sends or waits."""
    world.truth.balance_nano_usd = 10**12
    body = {"model": "fast", "messages": [{"role": "user", "content": "Hello"}], "user": LARGE}
    async with world.post(body) as response:
        assert response.status == 200, await response.text()
    async with world.post({**body, "model": "none"}) as response:
        assert response.status == 404
    async with world.post(json.dumps(body)[:-1].encode()) as response:
        assert response.status == 400
    host, _, port = world.base_url.removeprefix("http://").partition(":")
    await until(lambda: world.relay.bodies.left_bytes == MOST_BYTES)
    await _leave_while_sending(world, host, int(port))
    await until(lambda: world.relay.bodies.left_bytes == MOST_BYTES)
    await world.settled()


async def _leave_while_sending(world: World, host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % KEY.encode())
    writer.write(b"Content-Length: %d\r\n\r\n" % (9 * SMALL_BYTES) + LARGE.encode())
    await until(lambda: world.relay.bodies.left_bytes < MOST_BYTES)
    writer.transport.abort()


async def test_what_only_counts_takes_its_share_too(world: World):
    """It is free, so nobody else would bound it."""
    body = {"model": "fast", "messages": [{"role": "user", "content": LARGE}]}
    world.relay.bodies.left_bytes = 2 * SMALL_BYTES
    url, key = f"{world.base_url}/v1/messages/count_tokens", {"x-api-key": KEY}
    async with world.session.post(url, json=body, headers=key) as response:
        assert response.status == 503
    world.relay.bodies.left_bytes = MOST_BYTES
    async with world.session.post(url, json=body, headers=key) as response:
        assert response.status == 200, await response.text()
    await until(lambda: world.relay.bodies.left_bytes == MOST_BYTES)
    await world.settled()


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/images/generations", "/v1/audio/speech", "/v1/quote"])
async def test_long_jobs_and_quotes_take_their_share_too(path: str):
    """And give it back when they are refused."""
    room = BodyRoom(most_bytes=2 * SMALL_BYTES)
    public = new_fastapi()
    public.include_router(tasks.routes(tasks=NOBODY, claims=NOBODY, limits=NOBODY, catalogue=NOBODY, identify=identify))  # type: ignore[arg-type]  # nobody is asked
    public.include_router(quote.routes(quotes=NOBODY, catalogue=NOBODY, identify=identify))  # type: ignore[arg-type]  # nobody is asked
    tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
    app = EdgeApp(config=without_file(), public=public, own=new_fastapi(), hot={}, tracer=tracer, bodies=room)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://edge") as client:
        for body, status in ((LARGE.encode(), 503), (LARGE[: 2 * SMALL_BYTES].encode(), 400), (b"x", 400)):
            assert (await client.post(path, content=body)).status_code == status
            assert room.left_bytes == 2 * SMALL_BYTES


async def identify(_: object) -> Caller:
    return Caller(customer_id="c", key_id="k", models=frozenset())


def test_small_bodies_have_a_room_of_their_own():
    """Large ones can't fill it, and however many small ones come, what they take is bounded."""
    room = BodyRoom(most_bytes=2 * SMALL_BYTES, most_small_bytes=SMALL_BYTES + 1000)
    large, small, grown = room.share(), room.share(), room.share()
    large.grow(2 * SMALL_BYTES)
    small.grow(1000)
    grown.grow(SMALL_BYTES)
    assert (room.left_bytes, room.left_small_bytes) == (0, 0)
    with pytest.raises(TollbridgeError, match="Too many requests"):
        small.grow(1001)
    with pytest.raises(TollbridgeError, match="Too many large requests"):
        grown.grow(SMALL_BYTES + 1)
    large.end()
    grown.grow(SMALL_BYTES + 1)
    assert (room.left_bytes, room.left_small_bytes) == (SMALL_BYTES - 1, SMALL_BYTES)
    for share in (small, grown, grown):
        share.end()
    assert (room.left_bytes, room.left_small_bytes) == (2 * SMALL_BYTES, SMALL_BYTES + 1000)


def test_a_share_is_what_its_body_has_become():
    """And nothing of the room for large ones while that is small."""
    room = BodyRoom(most_bytes=3 * SMALL_BYTES)
    share = room.share()
    for size, left in ((1000, 3), (SMALL_BYTES, 3), (2 * SMALL_BYTES, 1), (3 * SMALL_BYTES, 0)):
        share.grow(size)
        assert room.left_bytes == left * SMALL_BYTES
    share.end()
    share.end()
    assert room.left_bytes == 3 * SMALL_BYTES
