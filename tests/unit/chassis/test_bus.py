"""The bus on a real NATS that is killed, emptied and started again."""

import asyncio
import secrets
from collections.abc import Sequence

import nats
import pytest
import structlog

from chassis import bus as bus_module
from chassis.bus import Bus, Delivery
from chassis.errors import Code, TollbridgeError
from cli.up.ports import pick_ports
from tests.conftest import RunningServer
from tests.unit.chassis.bus_rig import WITHIN_S, Collector, cancelled, send, send_until_stored, specs, until

pytestmark = pytest.mark.usefixtures("quick_bus")


async def test_an_event_arrives_once_with_its_cloudevents_headers(bus: Bus) -> None:
    """Published twice under one id it is stored once, with what CloudEvents and W3C ask for in its headers."""
    stream, durable = specs()
    await bus.ensure_stream(stream)
    await bus.ensure_stream(stream)
    collector = Collector()
    task = asyncio.create_task(bus.consume(durable, collector))
    for _ in range(2):
        await bus.publish(
            durable.subject, b"x", event_id="e1", event_type="t.v1.Happened", source="edge", traceparent="00-a-b-01"
        )
    await send(bus, durable.subject, "e2")
    await until(lambda: len(collector.deliveries) >= 2)
    await cancelled(task)
    assert collector.texts == ["x", "e2"]
    headers = collector.deliveries[0].headers
    assert headers["ce-id"] == headers["Nats-Msg-Id"] == "e1"
    assert (headers["ce-type"], headers["ce-source"], headers["ce-specversion"]) == ("t.v1.Happened", "edge", "1.0")
    assert headers["ce-time"].endswith("+00:00")
    assert headers["traceparent"] == "00-a-b-01"
    assert "traceparent" not in collector.deliveries[1].headers


async def test_what_a_handler_drops_comes_again(bus: Bus) -> None:
    """A handler that raises or naks gets the message again, with the count of its deliveries."""
    stream, durable = specs("workqueue")
    await bus.ensure_stream(stream)
    seen: list[tuple[str, int]] = []

    async def clumsy(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            seen.append((delivery.data.decode(), delivery.deliveries))
            if delivery.deliveries == 1:
                await delivery.nak(0.01)
            elif delivery.deliveries == 2:
                raise RuntimeError("clumsy")
            else:
                await delivery.ack()

    task = asyncio.create_task(bus.consume(durable, clumsy))
    await send(bus, durable.subject, "a")
    await until(lambda: ("a", 3) in seen)
    await cancelled(task)
    assert seen == [("a", 1), ("a", 2), ("a", 3)]


async def test_a_message_too_large_is_no_outage(bus: Bus) -> None:
    """What the server will never take is told apart from what may be tried again."""
    stream, durable = specs()
    await bus.ensure_stream(stream)
    with pytest.raises(TollbridgeError) as refused:
        await bus.publish(durable.subject, b"x" * (2 << 20), event_id="e", event_type="t", source="s")
    assert refused.value.code is Code.REQUEST_TOO_LARGE


async def test_every_listener_hears_every_message(bus: Bus, nats_url: str) -> None:
    """Listening is no sharing: two replicas both hear it, and one bad message deafens nobody."""
    other = await Bus.connect(nats_url, name="other", log=structlog.get_logger())
    subject = f"test.{secrets.token_hex(4)}"
    heard: list[bytes] = []

    async def hear(data: bytes) -> None:
        if data == b"bad":
            raise ValueError("bad")
        heard.append(data)

    tasks = [asyncio.create_task(each.listen(subject, hear)) for each in (bus, other)]
    sender = await nats.connect(nats_url)
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while len(heard) < 4:
        await sender.publish(subject, b"bad")
        await sender.publish(subject, b"good")
        await sender.flush()
        await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() < deadline
    for task in tasks:
        await cancelled(task)
    await sender.close()
    await other.close()


async def test_a_bus_that_is_not_there_yet_delays_nobody(nats_server: RunningServer) -> None:
    """Connecting and ensuring return at once without a server, publishing says UNAVAILABLE, and it all works later."""
    nats_url = nats_server.server.url
    await asyncio.to_thread(nats_server.kill)
    try:
        loop = asyncio.get_running_loop()
        began = loop.time()
        bus = await Bus.connect(nats_url, name="early", log=structlog.get_logger())
        stream, durable = specs()
        await bus.ensure_stream(stream)
        collector = Collector()
        task = asyncio.create_task(bus.consume(durable, collector))
        with pytest.raises(TollbridgeError) as refused:
            await send(bus, durable.subject, "early")
        assert refused.value.code is Code.UNAVAILABLE
        assert not bus.connected
        assert loop.time() - began < 2
    finally:
        await asyncio.to_thread(nats_server.start)
    await send_until_stored(bus, durable.subject, "late")
    await until(lambda: collector.texts == ["late"])
    await cancelled(task)
    await bus.close()


async def test_consumers_and_listeners_survive_a_killed_server(bus: Bus, nats_server: RunningServer) -> None:
    """After SIGKILL and a restart on the same disk nothing stored is missing and new messages flow."""
    stream, durable = specs()
    await bus.ensure_stream(stream)
    collector = Collector()
    task = asyncio.create_task(bus.consume(durable, collector))
    await send(bus, durable.subject, "before")
    await until(lambda: "before" in collector.texts)
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.start)
    await send_until_stored(bus, durable.subject, "after")
    await until(lambda: "after" in collector.texts)
    await cancelled(task)


async def test_streams_and_durables_lost_with_the_disk_are_made_again(bus: Bus, nats_server: RunningServer) -> None:
    """A server that comes back with an empty JetStream gets its streams and durables back and messages flow."""
    stream, durable = specs()
    await bus.ensure_stream(stream)
    collector = Collector()
    task = asyncio.create_task(bus.consume(durable, collector))
    await send(bus, durable.subject, "before")
    await until(lambda: "before" in collector.texts)
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.lose_disk)
    await asyncio.to_thread(nats_server.start)
    await send_until_stored(bus, durable.subject, "after")
    await until(lambda: "after" in collector.texts)
    await cancelled(task)


async def test_a_stream_deleted_under_us_is_made_again(bus: Bus, nats_url: str) -> None:
    """An operator's mistake costs the stored messages, not the service."""
    stream, durable = specs()
    await bus.ensure_stream(stream)
    collector = Collector()
    task = asyncio.create_task(bus.consume(durable, collector))
    await send(bus, durable.subject, "before")
    await until(lambda: "before" in collector.texts)
    operator = await nats.connect(nats_url)
    await operator.jetstream().delete_stream(stream.name)
    await operator.close()
    await send_until_stored(bus, durable.subject, "after")
    await until(lambda: "after" in collector.texts)
    await cancelled(task)


async def test_a_pull_subscription_that_fell_silent_is_renewed(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription whose fetches time out although messages wait is thrown away and made anew."""
    stream, durable = specs()
    await bus.ensure_stream(stream)
    collector = Collector()
    plain = bus_module.JetStreamContext.PullSubscription.fetch
    deaf: set[int] = set()

    async def fetch(self: object, batch: int, timeout: float) -> list[object]:
        if not deaf or id(self) in deaf:
            deaf.add(id(self))
            await asyncio.sleep(0.05)
            raise TimeoutError
        return await plain(self, batch, timeout=timeout)

    monkeypatch.setattr(bus_module.JetStreamContext.PullSubscription, "fetch", fetch)
    task = asyncio.create_task(bus.consume(durable, collector))
    await send(bus, durable.subject, "waiting")
    await until(lambda: collector.texts == ["waiting"])
    assert len(deaf) == 1
    await cancelled(task)


async def test_a_client_given_up_is_replaced(bus: Bus) -> None:
    """When nats-py closes its client for good, the bus makes another and goes on."""
    stream, durable = specs()
    await bus.ensure_stream(stream)
    collector = Collector()
    heard: list[bytes] = []

    async def hear(data: bytes) -> None:
        heard.append(data)

    tasks = [
        asyncio.create_task(bus.consume(durable, collector)),
        asyncio.create_task(bus.listen(durable.subject, hear)),
    ]
    await send(bus, durable.subject, "before")
    await until(lambda: "before" in collector.texts)
    await bus._client.close()
    await send_until_stored(bus, durable.subject, "after")
    await until(lambda: "after" in collector.texts)
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    number = 0
    while len(heard) < 2:
        number += 1
        await send_until_stored(bus, durable.subject, f"more-{number}")
        assert asyncio.get_running_loop().time() < deadline
    for task in tasks:
        await cancelled(task)


async def test_closing_ends_a_bus_that_never_connected() -> None:
    """Without any server ever, close returns promptly."""
    bus = await Bus.connect(f"nats://127.0.0.1:{pick_ports(1)[0]}", name="alone", log=structlog.get_logger())
    await asyncio.wait_for(bus.close(), 5)


async def test_an_unexpected_failure_is_logged_and_the_bus_goes_on(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a failure to connect nor one to make a stream that nobody expected ends the task that does it."""
    connect, make_stream = bus_module.Link.connect, bus_module.make_stream
    failures: list[str] = []

    async def connect_later(self: object, *arguments: object, **named: object) -> None:
        if "connect" not in failures:
            failures.append("connect")
            raise ValueError("unexpected")
        await connect(self, *arguments, **named)

    async def make_later(*arguments: object) -> None:
        if "stream" not in failures:
            failures.append("stream")
            raise ValueError("unexpected")
        await make_stream(*arguments)

    monkeypatch.setattr(bus_module.Link, "connect", connect_later)
    monkeypatch.setattr(bus_module, "make_stream", make_later)
    stream, durable = specs()
    with structlog.testing.capture_logs() as logged:
        bus = bus_module.Bus(url=nats_url, name="test", log=structlog.get_logger())
        await bus.ensure_stream(stream)
        await send_until_stored(bus, durable.subject, "after all")
        await bus.close()
    assert failures == ["connect", "stream"]
    assert [each["task"] for each in logged if each["event"] == "bus_task_failed"] == [
        "_stay_connected",
        "_keep_streams",
    ]


async def test_a_cancelled_connect_leaves_no_task() -> None:
    """Who gives up while connecting has nothing to close."""
    before = asyncio.all_tasks()
    nobody = f"nats://127.0.0.1:{pick_ports(1)[0]}"
    connecting = asyncio.create_task(Bus.connect(nobody, name="test", log=structlog.get_logger()))
    await until(lambda: asyncio.all_tasks() - before > {connecting})
    await cancelled(connecting)
    assert not {task for task in asyncio.all_tasks() - before if task.get_name().startswith("bus-")}


async def test_a_cancelled_listener_takes_its_subscription_along(bus: Bus) -> None:
    """The server sends nothing for nobody."""
    await until(lambda: bus.connected)
    listening = asyncio.create_task(bus.listen("test.nobody", print))
    await until(lambda: bool(bus._client._subs))
    await cancelled(listening)
    assert not bus._client._subs
