"""A process that stands still takes neither its client nor its provider for silent meanwhile."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from services.edge.dialects import DIALECTS
from services.edge.http.awake import STEP_S, AwakeTime
from services.edge.http.reply import BLOCKED_S, PROVIDER_WAIT_S, Reply
from tests.fakes.stop import Stop
from tests.unit.edge.web_provider import Provider, chunk, stream, usage_chunk
from tests.unit.edge.world import World, edge_world, until
from tests.unit.edge.world_owners import KEY
from tollbridge.usage.v1 import usage_pb2


@pytest.mark.parametrize("policy", ["drain", "cancel", "absorb"])
async def test_a_provider_that_breaks_off_while_we_stand_still_in_a_write_is_not_the_clients_fault(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch, policy: str
):
    """The client is told of the failure and pays nothing, though the write took as long as one that blocks."""
    world.truth.on_disconnect = policy
    stood_still = asyncio.Event()
    provider.handlers = [stream(chunk("one "), stood_still, breaks=True)]
    send = RequestResponseCycle.send

    async def standing_still(cycle: RequestResponseCycle, message) -> None:
        await send(cycle, message)
        if b"one" in message.get("body", b""):
            time.sleep(BLOCKED_S * 1.1)  # noqa: ASYNC251  nothing of this process runs meanwhile: that is the case
            stood_still.set()

    monkeypatch.setattr(RequestResponseCycle, "send", standing_still)
    async with world.post(world.body(stream=True)) as response:
        text = await response.text()
    assert "one" in text
    assert "error" in text
    event = await world.only_event()
    assert (event.ended, event.charge_nano_usd) == (usage_pb2.ENDED_UPSTREAM_FAILED, 0)
    await world.settled()


@pytest.mark.parametrize(("steps", "is_blocked"), [(1, False), (round(BLOCKED_S / STEP_S), True)])
async def test_a_write_is_blocked_for_as_long_as_this_process_ran_within_it(steps: int, is_blocked: bool):
    """A stop is one step, however long; a client that does not read is waited for in many."""
    awake, taken = AwakeTime(), asyncio.Event()

    async def send(_message) -> None:
        await taken.wait()

    reply = Reply(send=send, dialect=DIALECTS["openai"], request_id="r", awake=awake)
    writing = asyncio.create_task(reply.write(b"a"))
    await until(lambda: reply.sending)
    for _ in range(steps):
        awake.step()
    taken.set()
    await writing
    assert reply.was_blocked() is is_blocked


async def test_time_passes_while_a_process_runs():
    """Somebody counts it."""
    awake = AwakeTime()
    counting = asyncio.create_task(awake.run())
    await until(lambda: awake.seconds >= 2 * STEP_S)
    counting.cancel()


async def test_a_client_that_reads_again_answers_for_nothing_that_fails_later():
    """Once the provider was waited for, as long as it takes to see that nothing of before was left, piece by piece."""
    awake, taken = AwakeTime(), asyncio.Event()

    async def send(_message) -> None:
        await taken.wait()

    reply = Reply(send=send, dialect=DIALECTS["openai"], request_id="r", awake=awake)
    writing = asyncio.create_task(reply.write(b"a"))
    await until(lambda: reply.sending)
    for _ in range(round(BLOCKED_S / STEP_S)):
        awake.step()
    taken.set()
    await writing
    assert reply.was_blocked()
    for _ in range(4):
        await asyncio.sleep(PROVIDER_WAIT_S / 3)  # what is tested is the passing of time
        await reply.write(b"b")
    assert not reply.was_blocked()


LINGER = struct.pack("ii", 1, 0)
"""A close that is a reset."""
WHOLE = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 500, "total_tokens": 505},
}


def piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


REST = b"".join(
    map(piece, (chunk(" two three"), chunk(None, finish="stop"), usage_chunk(5, 500), b"data: [DONE]\n\n", b""))
)
Script = Callable[[socket.socket, socket.socket, Stop, World], None]


def event_of(folder: Path, script: Script, *, policy: str, streams: bool = True) -> usage_pb2.UsageRecorded:
    """The one event of a request. `script` has its client's and its provider's end, once it runs."""

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
                if streams:
                    events = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                    provider.sendall(events + piece(chunk("one")))
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


@pytest.mark.parametrize("came_first", [True, False])
@pytest.mark.parametrize(("policy", "output"), [("cancel", 1), ("absorb", 0)])
def test_a_client_that_left_while_we_stood_still_pays_by_the_policy_for_an_answer_that_came_meanwhile(
    tmp_path: Path, policy: str, output: int, came_first: bool
):
    """Nobody got its end, though it came: the leaving is seen before the answer is called complete."""

    def script(client: socket.socket, provider: socket.socket, stop: Stop, _: World) -> None:
        with stop:
            if came_first:
                provider.sendall(REST)
            client.close()
            if not came_first:
                provider.sendall(REST)

    event = event_of(tmp_path, script, policy=policy)
    assert (event.ended, event.policy, event.tokens.output) == (usage_pb2.ENDED_CLIENT_GONE, policy, output)
    assert bool(event.charge_nano_usd) is bool(output)


@pytest.mark.parametrize(("policy", "output"), [("cancel", 0), ("absorb", 0), ("drain", 500)])
def test_a_client_that_left_while_we_stood_still_pays_by_the_policy_for_a_whole_answer(
    tmp_path: Path, policy: str, output: int
):
    """By cancel and absorb who got nothing pays nothing."""
    body = json.dumps(WHOLE).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    def script(client: socket.socket, provider: socket.socket, stop: Stop, _: World) -> None:
        with stop:
            client.close()
            provider.sendall(answer)

    event = event_of(tmp_path, script, policy=policy, streams=False)
    assert (event.ended, event.policy, event.tokens.output) == (usage_pb2.ENDED_CLIENT_GONE, policy, output)
    assert bool(event.charge_nano_usd) is bool(output)


@pytest.mark.parametrize("looking", [True, False])
@pytest.mark.parametrize("policy", ["drain", "cancel"])
def test_what_is_cut_costs_nothing_though_its_client_left_meanwhile(tmp_path: Path, policy: str, looking: bool):
    """We had broken it before we could know that its client had left."""

    waits = threading.Event()

    async def cut(world: World) -> None:
        waits.set()
        await asyncio.sleep(0.1)  # within the stop: it is what the loop does first then
        world.relay.cut()

    def script(client: socket.socket, provider: socket.socket, stop: Stop, world: World) -> None:
        asyncio.run_coroutine_threadsafe(cut(world), stop.loop)
        assert waits.wait(5)
        stop.looking = looking
        with stop:
            client.close()

    event = event_of(tmp_path, script, policy=policy)
    assert (event.ended, event.charge_nano_usd) == (usage_pb2.ENDED_GATEWAY_FAILED, 0)
