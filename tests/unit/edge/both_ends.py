"""A request of which a test holds both ends, its client's and its provider's, in a thread beside the edge's loop."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import uvloop

from tests.fakes.stop import Stop
from tests.unit.edge.web_provider import chunk, usage_chunk
from tests.unit.edge.world import World, edge_world
from tests.unit.edge.world_owners import KEY
from tollbridge.usage.v1 import usage_pb2

_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 500, "total_tokens": 505},
}


def whole(answer: dict[str, object]) -> bytes:
    """An answer that is no stream."""
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


WHOLE = whole(_ANSWER)
WHOLE_UNCOUNTED = whole({name: value for name, value in _ANSWER.items() if name != "usage"})


def piece(data: bytes) -> bytes:
    """A chunk of HTTP's."""
    return b"%x\r\n%s\r\n" % (len(data), data)


REST = b"".join(
    map(piece, (chunk(" two three"), chunk(None, finish="stop"), usage_chunk(5, 500), b"data: [DONE]\n\n", b""))
)
"""A stream behind its beginning."""
REST_UNCOUNTED = b"".join(map(piece, (chunk(" two three"), chunk(None, finish="stop"), b"data: [DONE]\n\n", b"")))
BEGINNING = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + piece(
    chunk("one")
)
Script = Callable[[socket.socket, socket.socket, Stop, World], None]


def event_of(
    folder: Path, script: Script, *, policy: str, streams: bool = True, begun: bool = True
) -> usage_pb2.UsageRecorded:
    """The one event of a request, of an edge on uvloop. `script` has its client's and its provider's end, once it runs.

    A stream has `begun` then, and its client has read its first piece.
    """

    def play(world: World, stop: Stop, listening: socket.socket) -> None:
        host, _, port = world.base_url.removeprefix("http://").partition(":")
        body = json.dumps(world.body(stream=streams)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), 20) as client:
            client.sendall(head.encode() + body)
            provider, _ = listening.accept()
            with provider:
                provider.recv(1 << 16)
                if streams and begun:
                    provider.sendall(BEGINNING)
                    seen = b""
                    while b"one" not in seen:
                        seen += client.recv(1 << 16)
                script(client, provider, stop, world)

    async def run(listening: socket.socket) -> usage_pb2.UsageRecorded:
        async with edge_world(folder) as world:
            world.truth.on_disconnect = policy
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            world.truth.routes = [{"protocol": "openai", "base_url": url, "provider": "web"}]
            stop = Stop(asyncio.get_running_loop())
            await asyncio.to_thread(play, world, stop, listening)
            return await world.only_event()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        return uvloop.run(run(listening))
