"""More than edge can serve: it says so at once, before it looks a key up or reads a body, and serves again at once."""

import asyncio
import json
import resource

import pytest

from services.edge.http import door as rules
from services.edge.http import protocol
from tests.unit.edge.test_http_protocol import said
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY
from tollbridge.auth.v1 import auth_pb2

SLOW = {"chunks": 20, "gap_ms": 30}


async def test_one_request_more_than_there_is_room_for_is_told_to_come_back(world: World):
    """503 and one second, while those inside go on; and when one of them has ended the next is served."""
    world.relay.door.most_inside = 1
    async with world.post(world.body(SLOW, stream=True)) as running:
        assert running.status == 200
        async with world.post(world.body()) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            assert (await response.json())["error"]["code"] == "overloaded"
        async with world.session.get(f"{world.base_url}/v1/nothing") as response:
            assert response.status == 503
        assert b"[DONE]" in await running.read()
    await until(lambda: world.relay.door.inside == 0)
    async with world.post(world.body()) as response:
        assert response.status == 200
    await world.settled()
    assert world.relay.door.inside == 0


async def test_a_refusal_costs_no_look_up_and_waits_for_no_body(world: World):
    """The client has sent its head only, with a key that nobody knows."""
    world.relay.door.most_inside = 0
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nobody\r\nContent-Length: 100\r\n\r\n"
    )
    host, _, port = world.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head)
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
    writer.close()
    for path in ("/chat/completions", "/messages/count_tokens", "/embeddings"):
        async with world.post(world.body(), path=path) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert world.relay.door.inside == 0


async def test_a_burst_is_served_to_the_last(world: World):
    """Two hundred at once begin one after the other; none is refused and none is forgotten."""
    world.truth.balance_nano_usd = 10**12

    async def one() -> int:
        async with world.post(world.body(), headers={"connection": "close"}) as response:
            await response.read()
            return response.status

    assert await asyncio.gather(*(one() for _ in range(200))) == [200] * 200
    await world.settled()
    assert (world.relay.door.inside, world.relay.door.waiting) == (0, 0)


async def test_clients_that_leave_or_fail_take_no_place_with_them(world: World):
    """A wrong body, a wrong key, a model that there isn't, and one who hangs up."""
    for body, key, status in ((b"{", KEY, 400), (world.body(), "tb_live_x", 401), ({"model": "none"}, KEY, 400)):
        async with world.post(body, key=key) as response:
            assert response.status == status
    async with world.post(world.body(SLOW, stream=True)) as running:
        await running.content.readany()
        running.close()
    await until(lambda: world.relay.door.inside == 0)
    await world.settled()


async def test_a_connection_too_many_is_refused_and_probes_are_not(world: World, monkeypatch: pytest.MonkeyPatch):
    """With 503 and one second; who looks after the process still gets an answer."""
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 0)
    answer = await said(world, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1" in head.lower()
    assert json.loads(body)["error"]["code"] == "overloaded"
    probed = await said(world, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert not probed.startswith(b"HTTP/1.1 503 ")
    monkeypatch.setattr(protocol, "MOST_REFUSED", 0)
    assert await said(world, b"") == b""


@pytest.mark.parametrize(
    ("files", "served", "refused"),
    [(resource.RLIM_INFINITY, 16_384, 1024), (1 << 20, 16_384, 1024), (20_000, 9232, 1024), (1024, 352, 64)],
)
def test_each_connection_leaves_a_file_for_its_provider(
    files: int, served: int, refused: int, monkeypatch: pytest.MonkeyPatch
):
    """However many files the system lets a process open: some are left for its spool and its own services."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert protocol.most_connections() == (served, refused)


async def test_who_is_over_a_limit_is_told_so_before_the_line(world: World, monkeypatch: pytest.MonkeyPatch):
    """Also when auth would have to be asked again to let it in: a refusal waits for nobody, however many wait."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=1)
    for status in (200, 429):
        async with world.post(world.body()) as response:
            assert response.status == status
    kept = world.admission._kept
    kept.update({asked: (0.0, authority) for asked, (_, authority) in kept.items()})
    for name in ("HOLD_S", "MOST_HOLD_S"):
        monkeypatch.setattr(rules, name, 100.0)
    monkeypatch.setattr(rules, "PATIENCE_S", 0.2)
    door = world.relay.door
    visits = [door.enter() for _ in range(rules.LEAST_PLACES)]
    for visit in visits:
        await visit.begin()
    async with world.post(world.body()) as response:
        assert response.status == 429
    for visit in visits:
        visit.leave()
