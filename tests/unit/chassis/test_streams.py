"""Streams on a real NATS: what they do when they are full, and what becomes of their bounds."""

import asyncio
import dataclasses
import json

import nats
import pytest
from nats.js import api

from chassis.bus import Bus
from chassis.errors import Code, TollbridgeError
from chassis.streams import StreamSpec
from tests.unit.chassis.bus_rig import Collector, cancelled, send, specs, until


async def config_of(bus: Bus, stream: StreamSpec) -> tuple[str, int, int]:
    """What it does when it is full; its bytes; its seconds."""
    config = json.loads(await bus.stream_info(stream.name))["config"]
    return config["discard"], config["max_bytes"], config["max_age"] // 10**9


async def test_a_full_stream_drops_its_oldest(bus: Bus) -> None:
    """Nobody who publishes is stopped; a durable goes on behind what was dropped."""
    stream, durable = specs(max_bytes=2000)
    await bus.ensure_stream(stream)
    await send(bus, durable.subject, *(f"event-{number}" for number in range(100)))
    info = json.loads(await bus.stream_info(stream.name))
    assert info["state"]["bytes"] <= 2000
    assert info["state"]["first_seq"] > 1
    collector = Collector()
    task = asyncio.create_task(bus.consume(durable, collector))
    await until(lambda: "event-99" in collector.texts)
    await send(bus, durable.subject, *(f"more-{number}" for number in range(20)))
    await until(lambda: "more-19" in collector.texts)
    await cancelled(task)
    assert "event-0" not in collector.texts
    assert await bus.lag(durable) == 0


async def test_a_stream_that_is_there_is_widened_and_never_narrowed(bus: Bus, nats_url: str) -> None:
    """What refused when it was full drops its oldest from now on; an operator's larger bounds, or none, stay."""
    stream, durable = specs(max_bytes=4000)
    client = await nats.connect(nats_url)
    before = api.StreamConfig(
        name=stream.name, subjects=list(stream.subjects), discard=api.DiscardPolicy.NEW, max_bytes=2000, max_age=60
    )
    await client.jetstream().add_stream(before)
    with pytest.raises(TollbridgeError):
        await send(bus, durable.subject, *(f"event-{number}" for number in range(100)))
    await bus.ensure_stream(stream)
    assert await config_of(bus, stream) == ("old", 4000, 3600)
    await send(bus, durable.subject, *(f"event-{number}" for number in range(100)))
    await bus.ensure_stream(dataclasses.replace(stream, max_bytes=3000, max_age_s=600))
    assert await config_of(bus, stream) == ("old", 4000, 3600)
    await client.jetstream().update_stream(before.evolve(max_bytes=-1, max_age=0))
    await bus.ensure_stream(stream)
    assert await config_of(bus, stream) == ("old", -1, 0)
    await client.close()


async def test_of_a_stream_that_is_not_there_an_error_is_told(bus: Bus) -> None:
    """By the server, with its code."""
    assert json.loads(await bus.stream_info("NONE"))["error"]["code"] == 404


async def test_a_full_work_queue_refuses_what_is_new(bus: Bus) -> None:
    """When its bytes are used up the publisher is told, and what is stored stays."""
    stream, durable = specs("workqueue", max_bytes=2000)
    await bus.ensure_stream(stream)
    with pytest.raises(TollbridgeError) as full:
        await send(bus, durable.subject, *(f"event-{number}" for number in range(100)))
    assert full.value.code is Code.UNAVAILABLE
    await bus.ensure_stream(dataclasses.replace(stream, max_bytes=1 << 20))
    await send(bus, durable.subject, "more")
    collector = Collector()
    task = asyncio.create_task(bus.consume(durable, collector))
    await until(lambda: "more" in collector.texts)
    await cancelled(task)
    assert collector.texts[0] == "event-0"
