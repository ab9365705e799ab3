"""A process that stands still takes neither its client nor its provider for silent meanwhile."""

import asyncio
import time

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from services.edge.dialects import DIALECTS
from services.edge.http.awake import STEP_S, AwakeTime
from services.edge.http.reply import BLOCKED_S, Reply
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
