"""An edge that leaves tells its clients to go elsewhere, and loses none of those that were with it already."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest
import uvloop

from services.edge.http import protocol
from services.edge.http.uvicorn_server import HttpServer
from tests.unit.edge.world import until

REQUEST = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


class Leaving:
    """A server whose requests to /slow wait for `go_on`, and its switch."""

    def __init__(self) -> None:
        self.leaving = False
        self.go_on = asyncio.Event()
        self.arrived = asyncio.Event()
        self.http = HttpServer(
            app=self,  # it is all that uvicorn needs of an app
            bind="127.0.0.1:0",
            grace_s=20,
            reuse_port=True,
            is_leaving=lambda: self.leaving,
        )
        self.serving = asyncio.create_task(self.http.serve())

    async def __call__(self, scope, _receive, send) -> None:
        if scope["path"] == "/slow":
            self.arrived.set()
            await self.go_on.wait()
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await self.go_on.wait()
            await send({"type": "http.response.body", "body": b"b"})
            return
        body = json.dumps(scope["path"]).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.http.address.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def stops_listening(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                    await asyncio.sleep(0.02)
                    continue
                return


@pytest.fixture
async def server() -> AsyncIterator[Leaving]:
    """One that listens; stopped at the end."""
    made = Leaving()
    await until(lambda: made.http._server.started)
    yield made
    made.leaving = False  # nobody waits for what a test left open
    made.go_on.set()
    made.http.stop()
    async with asyncio.timeout(20):
        await made.serving


async def head_of(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer; its body is read away."""
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
    return head


async def test_while_it_leaves_each_answer_ends_its_connection(server: Leaving):
    """New connections are still taken, and those that were kept end with their next answer."""
    kept = await server.connect()
    kept[1].write(REQUEST % b"before")
    assert b"connection: close" not in await head_of(kept[0])
    server.leaving = True
    for reader, writer in (kept, await server.connect()):
        writer.write(REQUEST % b"after")
        head = await head_of(reader)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in head
        assert await reader.read() == b""


async def test_who_is_back_after_all_keeps_connections_again(server: Leaving):
    """A drain that is taken back leaves nothing behind."""
    server.leaving = True
    server.leaving = False
    reader, writer = await server.connect()
    for _ in range(2):
        writer.write(REQUEST % b"again")
        assert b"connection: close" not in await head_of(reader)


async def test_a_running_request_is_answered_after_the_listener_has_closed(server: Leaving):
    """It says that its connection ends, and nobody else is let in."""
    reader, writer = await server.connect()
    writer.write(REQUEST % b"slow")
    await asyncio.wait_for(server.arrived.wait(), 20)
    address, server.leaving = server.http.address, True
    server.http.stop(grace_s=20)
    await server.stops_listening(address)
    assert not server.serving.done()
    server.go_on.set()
    assert b"connection: close" in await head_of(reader)


async def test_a_request_on_its_way_when_the_listener_closes_is_answered(server: Leaving):
    """A connection that is made and not yet used is not reset."""
    reader, writer = await server.connect()
    address, server.leaving = server.http.address, True
    server.http.stop(grace_s=20)
    await server.stops_listening(address)
    writer.write(REQUEST % b"late")
    head = await head_of(reader)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in head


async def test_who_was_promised_a_connection_may_ask_on_it_once_more(server: Leaving):
    """A stream that began before its edge left ends without a word of that, so its connection is not closed with it."""
    reader, writer = await server.connect()
    writer.write(REQUEST % b"stream")
    async with asyncio.timeout(20):
        assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
    address, server.leaving = server.http.address, True
    server.http.stop(grace_s=20)
    await server.stops_listening(address)
    server.go_on.set()
    async with asyncio.timeout(20):
        await reader.readuntil(b"0\r\n\r\n")
    writer.write(REQUEST % b"next")
    assert b"connection: close" in await head_of(reader)
    assert await reader.read() == b""


async def test_a_server_that_need_not_be_kind_closes_idle_connections_at_once(server: Leaving, monkeypatch):
    """Where all ends at once, nobody waits for requests that could not be served."""
    monkeypatch.setattr(protocol, "LAST_CALL_S", 600)
    reader, writer = await server.connect()
    writer.write(REQUEST % b"one")
    await head_of(reader)
    server.http.stop()
    async with asyncio.timeout(20):
        assert await reader.read() == b""


async def test_a_connection_that_nobody_uses_holds_nobody_up(server: Leaving, monkeypatch):
    """After a moment it is closed, long before the grace is over."""
    monkeypatch.setattr(protocol, "LAST_CALL_S", 0.1)
    reader, _writer = await server.connect()
    server.leaving = True
    server.http.stop(grace_s=600)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
        await server.serving


def test_a_request_that_came_while_the_loop_was_busy_is_not_too_late(monkeypatch):
    """The time of its connection is over only when nothing of it waits to be read; uvloop looks at its timers first."""
    monkeypatch.setattr(protocol, "LAST_CALL_S", 0.05)

    busy = []

    def keep_busy(told: socket.socket, client: socket.socket) -> None:
        """While others are read the request comes, and its time goes."""
        asyncio.get_running_loop().remove_reader(told)
        client.sendall(REQUEST % b"late")
        time.sleep(0.1)
        busy.append(True)

    async def ask_late() -> bytes:
        server = Leaving()
        connections = server.http._server.server_state.connections
        host, _, port = server.http.address.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as client:
            await until(lambda: len(connections) == 1)
            server.leaving = True
            server.http.stop()
            next(iter(connections)).shutdown()
            told, telling = socket.socketpair()
            with told, telling:
                asyncio.get_running_loop().add_reader(told, keep_busy, told, client)
                telling.send(b"now")
                await until(lambda: busy)
            client.settimeout(20)
            answer = await asyncio.to_thread(client.recv, 4096)
        await asyncio.wait_for(server.serving, 20)
        return answer

    assert uvloop.run(ask_late()).startswith(b"HTTP/1.1 200 ")


async def test_connections_that_wait_to_be_accepted_are_served(server: Leaving):
    """What the kernel has accepted for us while the loop was busy is answered, though the listener closes at once."""
    host, _, port = server.http.address.rpartition(":")
    server.leaving = True
    server.http._server.should_exit = True
    clients = [socket.create_connection((host, int(port)), 5) for _ in range(20)]  # the loop turns not once meanwhile
    for client in clients:
        client.sendall(REQUEST % b"queued")
    await server.http._server.shutdown([server.http._socket])
    for client in clients:
        client.settimeout(20)
        answer = await asyncio.to_thread(client.recv, 4096)
        assert answer.startswith(b"HTTP/1.1 200 ")
        client.close()


async def test_of_two_on_one_port_the_successor_has_all_that_come_later(server: Leaving):
    """An edge may be replaced on the very port that it listens on: no connection is refused."""
    host, _, port = server.http.address.rpartition(":")
    next_one = HttpServer(app=server, bind=f"{host}:{port}", grace_s=20, reuse_port=True)
    serving = asyncio.create_task(next_one.serve())
    server.leaving = True
    server.http.stop()
    await asyncio.wait_for(server.serving, 20)
    for _ in range(20):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(REQUEST % b"new")
        assert b"connection: close" not in await head_of(reader)
        writer.close()
    next_one.stop()
    await asyncio.wait_for(serving, 20)
