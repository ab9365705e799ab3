"""An answer that its client does not read is given up, whatever kind of answer it is, and one that it reads is not."""

import asyncio
import json
import socket

import pytest

from services.edge.http import protocol, unread
from tests.unit.edge.web_provider import Provider, whole
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY

ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x" * (12 << 20)}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The connections of edge that have ended."""
    ended: list[object] = []
    as_it_is = protocol.CarefulProtocol.connection_lost

    def connection_lost(self: protocol.CarefulProtocol, exc: Exception | None) -> None:
        ended.append(self)
        as_it_is(self, exc)

    monkeypatch.setattr(protocol.CarefulProtocol, "connection_lost", connection_lost)
    return ended


async def asked(world: World) -> tuple[socket.socket, asyncio.AbstractEventLoop]:
    """A connection with little room that has sent a request."""
    host, _, port = world.base_url.removeprefix("http://").rpartition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (host, int(port)))
    body = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
    await loop.sock_sendall(client, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return client, loop


async def received(client: socket.socket, loop: asyncio.AbstractEventLoop) -> bytes:
    """All that comes."""
    found = bytearray()
    async with asyncio.timeout(30):
        while data := await loop.sock_recv(client, 1 << 20):
            found += data
    return bytes(found)


async def test_a_whole_answer_that_nobody_reads_is_given_up(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch, lost: list[object]
):
    """Its connection is closed and its bytes are let go; it was handed over, and is charged."""
    monkeypatch.setattr(unread, "TIMEOUT_S", 0.2)
    provider.handlers = [whole(ANSWER)]
    client, loop = await asked(world)
    await until(lambda: len(lost) == 1, within_s=30)
    assert len(await received(client, loop)) < 12 << 20
    client.close()
    assert (await world.only_event()).charge_nano_usd
    await world.settled()


async def test_an_answer_that_is_read_comes_whole(world: World, provider: Provider, lost: list[object]):
    """However often it had to wait for its client before."""
    provider.handlers = [whole(ANSWER)]
    client, loop = await asked(world)
    assert len(await received(client, loop)) > 12 << 20
    client.close()
    await until(lambda: len(lost) == 1)
    await world.settled()


async def test_too_much_that_nobody_reads_is_let_go(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch, lost: list[object]
):
    """Long before each of them would be given up for itself; the last ones are left alone."""
    monkeypatch.setattr(unread, "GRACE_S", 0.0)
    room = world.unread
    monkeypatch.setattr(room, "most_bytes", 30 << 20)
    provider.handlers = [whole(ANSWER)] * 4
    clients = []
    for _ in range(4):
        client, _ = await asked(world)
        clients.append(client)
    await until(lambda: len(lost) > 0 and len(lost) + len(room.waiting) == 4, within_s=30)
    assert 0 < sum(room.waiting.values()) <= room.most_bytes
    for client in clients:
        client.close()
    await until(lambda: len(lost) == 4, within_s=30)
    assert not room.waiting
    await world.settled()
