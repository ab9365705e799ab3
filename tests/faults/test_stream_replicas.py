"""Streams and buckets on a cluster of three NATS servers are kept on as many of them as the setting says."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import nats
import pytest
import structlog

from chassis.bucket import Bucket
from chassis.bus import Bus
from chassis.errors import TollbridgeError
from chassis.streams import StreamSpec
from cli.up.nats import EmbeddedNats
from cli.up.ports import pick_ports
from tests.conftest import RunningServer

PATIENCE_S = 40
KEPT = StreamSpec(name="KEPT", subjects=("kept.>",), retention="limits", max_age_s=3600, max_bytes=1 << 20)


class Member(EmbeddedNats):
    """One server of three."""

    def __init__(self, *, directory: Path, port: int, number: int, routes: list[int]) -> None:
        super().__init__(directory=directory, port=port)
        directory.mkdir()
        (directory / "password").write_text("same\n")
        self._number, self._routes = number, routes

    def _config(self) -> str:
        known = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
        own = f'listen: "127.0.0.1:{self._routes[self._number]}"'
        plain = super()._config().replace('"tollbridge"', f'"tollbridge-{self._number}"', 1)
        return f"{plain}cluster: {{ name: tollbridge, {own}, routes: [{known}] }}\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[RunningServer]]:
    """Three servers that know each other."""
    ports = pick_ports(6)
    members = []
    for number in range(3):
        server = Member(directory=tmp_path / str(number), port=ports[number], number=number, routes=ports[3:])
        members.append(RunningServer(server=server, log_path=tmp_path / f"{number}.log"))
    try:
        for member in members:
            member.start()
        yield members
    finally:
        for member in members:
            member.stop()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  a test polls with a deadline
            await asyncio.sleep(0.05)


async def done(work: Callable[[], Awaitable[object]]) -> None:
    """Tried until the cluster has elected who answers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(TollbridgeError):
                await work()
                return
            await asyncio.sleep(0.2)


def event(bus: Bus, event_id: str) -> Callable[[], Awaitable[None]]:
    return lambda: bus.publish("kept.it", b"it", event_id=event_id, event_type="t", source="s")


async def replicas(url: str, stream: str) -> int:
    client = await nats.connect(url, connect_timeout=PATIENCE_S)
    try:
        return (await client.jetstream(timeout=PATIENCE_S).stream_info(stream)).config.num_replicas or 1
    finally:
        await client.close()


@pytest.mark.thorough
async def test_streams_are_kept_on_as_many_servers_as_are_wanted(cluster: list[RunningServer]) -> None:
    """Made on one, widened to three by whoever wants three, never narrowed; and any one server may die then."""
    url = cluster[0].server.url
    log = structlog.get_logger()
    for wanted, found in ((1, 1), (3, 3), (1, 3)):
        bus = await Bus.connect(url, name="test", log=log, replicas=wanted)
        bucket = Bucket(url=url, name="kept", client="test", replicas=wanted)
        try:
            await until(lambda bus=bus: bus.connected)
            await bus.ensure_stream(KEPT)
            await until(lambda bus=bus: "KEPT" in bus._present)
            await done(event(bus, f"event-{wanted}-{found}"))
            await done(functools.partial(bucket.put, "it", b"it"))
            await done(functools.partial(bucket.get, "it"))
        finally:
            await bucket.close()
            await bus.close()
        assert (await replicas(url, "KEPT"), await replicas(url, "OBJ_kept")) == (found, found)
    cluster[2].kill()
    bus = await Bus.connect(url, name="test", log=log, replicas=3)
    try:
        await until(lambda: bus.connected)
        await done(event(bus, "event-after"))
    finally:
        await bus.close()
