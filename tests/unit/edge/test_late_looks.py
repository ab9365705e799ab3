"""What a client sent in time is in time, though we stood still and look late. On uvloop, whose timers come first."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from services.edge.bodies import request_body
from services.edge.http import protocol, uvicorn_server
from tests.fakes.stop import Stop
from tests.unit.edge.world import World, edge_world
from tests.unit.edge.world_owners import KEY

LIMIT_S, STOP_S = 1.0, 1.1


def talk(folder: Path, script: Callable[[socket.socket, bytes, bytes, Stop], bytes]) -> bytes:
    """What a client ends with that follows the script; it is given head and body of a request."""

    def client(world: World, stop: Stop) -> bytes:
        host, _, port = world.base_url.removeprefix("http://").partition(":")
        body = json.dumps(world.body()).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port)), 20) as sock:
            return script(sock, head.encode(), body, stop)

    async def run() -> bytes:
        async with edge_world(folder) as world:
            stop = Stop(asyncio.get_running_loop(), seconds=STOP_S)
            said = await asyncio.to_thread(client, world, stop)
            await world.settled()
            return said

    return uvloop.run(run())


def test_a_body_that_came_while_we_stood_still_was_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is read before its time is called over."""
    monkeypatch.setattr(request_body, "BODY_TIMEOUT_S", LIMIT_S)

    def script(sock: socket.socket, head: bytes, body: bytes, stop: Stop) -> bytes:
        sock.sendall(head + body[:9])
        time.sleep(LIMIT_S / 10)  # what is tested is the passing of time
        with stop:
            sock.sendall(body[9:])
        return sock.recv(1 << 16)

    assert b" 200 OK" in talk(tmp_path, script)


def test_a_request_that_came_while_we_stood_still_finds_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An idle one is ended by `protocol.py` alone, which looks whether something came."""
    monkeypatch.setattr(protocol, "IDLE_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(uvicorn_server, "IDLE_TIMEOUT_S", LIMIT_S)

    def script(sock: socket.socket, head: bytes, body: bytes, stop: Stop) -> bytes:
        sock.sendall(head + body)
        assert b" 200 OK" in sock.recv(1 << 16)
        with stop:
            sock.sendall(head + body)
        return sock.recv(1 << 16)

    assert b" 200 OK" in talk(tmp_path, script)
