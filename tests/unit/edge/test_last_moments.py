"""What happens while the end of an answer is made ready: its client leaves, or we cut it, or one after the other."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.edge.http.reply import Reply
from services.edge.paid import endings
from tests.fakes.stop import Stop
from tests.unit.edge.both_ends import REST, REST_UNCOUNTED, WHOLE_UNCOUNTED, event_of
from tests.unit.edge.world import World
from tollbridge.usage.v1 import usage_pb2

Happens = Callable[[socket.socket, World], Awaitable[None]]


async def leaves(client: socket.socket, _: World) -> None:
    """Its connection knows, and nobody was told yet."""
    client.close()
    await asyncio.sleep(0)


async def cut_then_leaves(client: socket.socket, world: World) -> None:
    """The leaving is told: it is known to have come second."""
    world.relay.cut()
    client.close()
    await asyncio.sleep(0.1)


async def cut_by_the_server(_: socket.socket, __: World) -> None:
    """As uvicorn does at the end of its grace: it cancels its task and closes the connection, with words of its own."""
    for task in asyncio.all_tasks():
        if "run_asgi" in repr(task.get_coro()):
            task.cancel()
    await asyncio.sleep(0.1)


def ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, happens: Happens, *, policy: str, streams: bool
) -> usage_pb2.UsageRecorded:
    """The event of a request in which that happens as its tokens have been counted."""
    ends: list[tuple[socket.socket, World]] = []
    counted = endings.counted

    async def counting(**what) -> object:
        use = await counted(**what)
        if ends:
            await happens(*ends.pop())
        return use

    def script(client: socket.socket, provider: socket.socket, _: Stop, world: World) -> None:
        ends.append((client, world))
        provider.sendall(REST_UNCOUNTED if streams else WHOLE_UNCOUNTED)
        deadline_s = time.monotonic() + 20
        while not world.truth.applied and time.monotonic() < deadline_s:
            time.sleep(0.01)

    monkeypatch.setattr(endings, "counted", counting)
    return event_of(folder, script, policy=policy, streams=streams)


@pytest.mark.parametrize(("policy", "is_paid"), [("cancel", True), ("absorb", False)])
def test_who_leaves_a_stream_while_it_is_counted_pays_by_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, is_paid: bool
):
    """It was delivered but for its end."""
    event = ended(tmp_path, monkeypatch, leaves, policy=policy, streams=True)
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, policy)
    assert bool(event.charge_nano_usd) is is_paid


@pytest.mark.parametrize("policy", ["cancel", "absorb"])
def test_who_leaves_a_whole_answer_while_it_is_counted_pays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
):
    """Nothing of it was delivered."""
    event = ended(tmp_path, monkeypatch, leaves, policy=policy, streams=False)
    assert (event.ended, event.policy, event.charge_nano_usd) == (usage_pb2.ENDED_CLIENT_GONE, policy, 0)


@pytest.mark.parametrize("happens", [cut_then_leaves, cut_by_the_server])
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("policy", ["cancel", "absorb", "drain"])
def test_what_we_cut_while_it_was_counted_costs_nothing_if_it_reached_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, streams: bool, happens: Happens
):
    """Its client got no end, and it was not the first to leave."""
    event = ended(tmp_path, monkeypatch, happens, policy=policy, streams=streams)
    assert (event.ended, event.charge_nano_usd) == (usage_pb2.ENDED_GATEWAY_FAILED, 0)


def test_who_leaves_before_the_end_of_a_stream_is_written_got_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last wait of a stream is for its client to have taken all before."""
    ends: list[socket.socket] = []

    async def flush(_: Reply) -> None:
        ends[0].close()
        await asyncio.sleep(0)

    def script(client: socket.socket, provider: socket.socket, _: Stop, world: World) -> None:
        ends.append(client)
        provider.sendall(REST)

    monkeypatch.setattr(Reply, "flush", flush)
    event = event_of(tmp_path, script, policy="absorb")
    assert (event.ended, event.charge_nano_usd) == (usage_pb2.ENDED_CLIENT_GONE, 0)
