"""A process that stands still takes neither its client nor its provider for silent meanwhile."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from services.edge.dialects import DIALECTS
from services.edge.http.awake import STEP_S, AwakeTime
from services.edge.http.reply import BLOCKED_S, PROVIDER_WAIT_S, Reply
from tests.fakes.stop import Stop
from tests.unit.edge.both_ends import BEGINNING, REST, WHOLE, event_of
from tests.unit.edge.web_provider import Provider, chunk, stream
from tests.unit.edge.world import World, until
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


BLOCKED_STEPS = round(BLOCKED_S / STEP_S)


async def written(steps: int) -> Reply:
    """A reply whose first write waited for its client while this process ran for so many steps."""
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
    return reply


@pytest.mark.parametrize(("steps", "is_blocked"), [(1, False), (BLOCKED_STEPS, True)])
async def test_a_write_is_blocked_for_as_long_as_this_process_ran_within_it(steps: int, is_blocked: bool):
    """A stop is one step, however long; a client that does not read is waited for in many."""
    reply = await written(steps)
    assert reply.was_blocked() is is_blocked


async def test_time_passes_while_a_process_runs():
    """Somebody counts it."""
    awake = AwakeTime()
    counting = asyncio.create_task(awake.run())
    await until(lambda: awake.seconds >= 2 * STEP_S)
    counting.cancel()


async def test_a_client_that_reads_again_answers_for_nothing_that_fails_later():
    """Once the provider was waited for, as long as it takes to see that nothing of before was left, piece by piece."""
    reply = await written(BLOCKED_STEPS)
    assert reply.was_blocked()
    for _ in range(4):
        await asyncio.sleep(PROVIDER_WAIT_S / 3)  # what is tested is the passing of time
        await reply.write(b"b")
    assert not reply.was_blocked()


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

    def script(client: socket.socket, provider: socket.socket, stop: Stop, _: World) -> None:
        with stop:
            client.close()
            provider.sendall(WHOLE)

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


def test_a_client_that_left_while_we_stood_still_got_nothing_of_a_stream_that_began_meanwhile(tmp_path: Path):
    """It pays for what was delivered: not even its head was."""

    def script(client: socket.socket, provider: socket.socket, stop: Stop, _: World) -> None:
        with stop:
            client.close()
            provider.sendall(BEGINNING + REST)

    event = event_of(tmp_path, script, policy="cancel", begun=False)
    assert (event.ended, event.policy, event.charge_nano_usd) == (usage_pb2.ENDED_CLIENT_GONE, "cancel", 0)
