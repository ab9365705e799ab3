"""The way of a usage event from the spool to billing, whatever is down or dies."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from chassis.ids import uuid7
from services.edge.spending import publisher as publishing
from services.edge.spending import replay
from services.edge.spool.spool import Kind, Record, Spool
from tests.unit.edge.world import World, edge_world, until
from tests.unit.edge.world_owners import Truth
from tollbridge.usage.v1 import usage_pb2


async def test_with_the_bus_down_requests_go_on_and_events_follow(world: World):
    """What the bus can't take is kept, or goes to billing another way; it has each event once."""
    world.bus.up = False
    for _ in range(5):
        async with world.post(world.body({"prompt_tokens": 5, "output_tokens": 3})) as response:
            assert response.status == 200
    world.bus.up = True
    await world.settled()
    assert world.truth.applied_count == 5
    assert world.truth.balance_nano_usd == 1_000_000_000 - 5 * (5 * 1000 + 3 * 4000)


async def test_what_the_bus_loses_goes_to_billing_itself(world: World, monkeypatch):
    """After three tries that billing never heard of, its own RPC is used."""
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (0.0, 0.0, 0.0))
    world.truth.lose_events = True
    async with world.post(world.body({"prompt_tokens": 5, "output_tokens": 3})) as response:
        assert response.status == 200
    await until(lambda: world.truth.applied_count == 1, within_s=20)
    assert world.bus.messages == 3
    await world.settled()


async def test_what_the_bus_refuses_goes_to_billing_at_once(world: World, monkeypatch):
    """A bus that is away is not waited for: one failed try, then billing's own RPC, long before a second is due."""
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (60.0, 60.0, 60.0))
    world.bus.up = False
    async with world.post(world.body({"prompt_tokens": 5, "output_tokens": 3})) as response:
        assert response.status == 200
    await until(lambda: world.truth.applied_count == 1)
    assert world.bus.messages == 0
    await world.settled()


async def test_a_clock_that_steps_back_changes_no_charge(world: World, monkeypatch):
    """An hour back while requests run: each is charged once, and no grant stays behind."""
    real_s, real_ns = time.time, time.time_ns
    for step_s in (0, 3600, 3600):
        monkeypatch.setattr(time, "time", lambda step_s=step_s: real_s() - step_s)
        monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: real_ns() - step_s * 1_000_000_000)
        async with world.post(world.body({"prompt_tokens": 5, "output_tokens": 3})) as response:
            assert response.status == 200
    await world.settled()
    assert world.truth.applied_count == 3
    assert world.truth.balance_nano_usd == 1_000_000_000 - 3 * (5 * 1000 + 3 * 4000)
    assert not world.truth.held


async def test_a_dead_edges_spool_is_replayed(tmp_path: Path):
    """Finished records are published, started ones become voids of the gateway, and the spool is deleted."""
    truth = Truth()
    dead = uuid7()
    folder = tmp_path / "spool"
    spool = Spool.open(folder, incarnation=dead, sync="group", max_bytes=1 << 24, loop=asyncio.get_running_loop())
    finished, started = uuid7(), uuid7()
    for request, kind, end in (
        (finished, Kind.STARTED, 0),
        (started, Kind.STARTED, 0),
        (finished, Kind.FINISHED, 7000),
    ):
        truth.held[f"hold-{request}"] = 50_000
        event = usage_pb2.UsageRecorded(
            event_id=str(uuid7()),
            request_id=str(request),
            kind=usage_pb2.USAGE_KIND_CHARGE if end else usage_pb2.USAGE_KIND_UNSPECIFIED,
            hold_id=f"hold-{request}",
            charge_nano_usd=end,
            closes_hold=True,
            spender=str(dead),
        )
        spool.append(kind, request.bytes, event.SerializeToString())
    spool.close()
    async with edge_world(folder, truth=truth) as world:
        await world.settled()
        await until(lambda: not (folder / str(dead)).exists())
    charged, void = truth.applied[str(finished)], truth.applied[str(started)]
    assert (charged.kind, charged.charge_nano_usd) == (usage_pb2.USAGE_KIND_CHARGE, 7000)
    assert (void.kind, void.ended) == (usage_pb2.USAGE_KIND_VOID, usage_pb2.ENDED_GATEWAY_FAILED)
    assert truth.balance_nano_usd == 1_000_000_000 - 7000


SIBLING = """
import asyncio, pathlib, sys, uuid
from services.edge.spool.spool import Kind, Record, Spool
from tollbridge.usage.v1 import usage_pb2

async def main():
    own, request = map(uuid.UUID, sys.argv[2:])
    loop = asyncio.get_running_loop()
    spool = Spool.open(pathlib.Path(sys.argv[1]), incarnation=own, sync="group", max_bytes=1 << 24, loop=loop)
    event = usage_pb2.UsageRecorded(
        event_id=str(request), request_id=str(request), kind=usage_pb2.USAGE_KIND_CHARGE, hold_id="hold",
        charge_nano_usd=7000, closes_hold=True, spender=str(own),
    )
    spool.append(Kind.FINISHED, request.bytes, event.SerializeToString())
    print("written", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_siblings_spool_is_replayed_while_we_run(tmp_path: Path, monkeypatch):
    """Not while it lives; when it was killed, its end is charged, its leases are closed and its spool is deleted."""
    monkeypatch.setattr(replay, "LOOK_EVERY_S", 0.1)
    truth, sibling, request = Truth(), uuid7(), uuid7()
    truth.held["hold"] = 50_000
    folder = tmp_path / "spool"
    async with edge_world(folder, truth=truth) as world:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SIBLING, str(folder), str(sibling), str(request)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"written\n"
        await asyncio.sleep(0.3)
        assert (folder / str(sibling)).exists()
        assert not truth.applied
        process.kill()
        await process.wait()
        await until(lambda: not (folder / str(sibling)).exists())
        await world.settled()
        last = max(n for n, spender in enumerate(truth.spenders) if spender == str(sibling))
        assert truth.statements[last] == []
    assert truth.applied[str(request)].charge_nano_usd == 7000


STARTED, NOTED, CHARGED, VOIDED = "started", "noted", "charged", "voided"
RECORDS = {
    STARTED: (Kind.STARTED, usage_pb2.USAGE_KIND_UNSPECIFIED),
    NOTED: (Kind.NOTE, usage_pb2.USAGE_KIND_CHARGE),
    CHARGED: (Kind.FINISHED, usage_pb2.USAGE_KIND_CHARGE),
    VOIDED: (Kind.FINISHED, usage_pb2.USAGE_KIND_VOID),
}


@pytest.mark.parametrize(
    ("left", "replayed"),
    [
        ([STARTED], "void"),
        ([STARTED, NOTED], NOTED),
        ([STARTED, NOTED, VOIDED], VOIDED),
        ([STARTED, CHARGED, STARTED], CHARGED),
        ([STARTED, CHARGED, STARTED, VOIDED], CHARGED),
        ([STARTED, CHARGED, STARTED, NOTED], CHARGED),
        ([STARTED, VOIDED, STARTED, CHARGED], CHARGED),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_one_event_is_replayed_for_each_request(left: list[str], replayed: str):
    """Also for one that was run again: its charge, and no void that billing's word for would forget the charge with."""
    request = uuid7()
    records = []
    for name in left:
        kind, usage_kind = RECORDS[name]
        event = usage_pb2.UsageRecorded(event_id=name, request_id=str(request), kind=usage_kind)
        records.append(Record(kind=kind, key=request.bytes, payload=event.SerializeToString()))
    (event,) = replay.unconfirmed(records)
    if replayed == "void":
        assert (event.event_id, event.kind) == (STARTED, usage_pb2.USAGE_KIND_VOID)
    else:
        assert event.event_id == replayed


async def test_a_dead_edges_spool_stays_until_billing_has_all_of_it(tmp_path: Path, monkeypatch):
    """What was published may be lost yet; its spender's leases stay open for it as long."""
    monkeypatch.setattr(replay, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (60.0, 60.0, 60.0))
    truth, dead, request, folder = Truth(lose_events=True), uuid7(), uuid7(), tmp_path / "spool"
    spool = Spool.open(folder, incarnation=dead, sync="group", max_bytes=1 << 24, loop=asyncio.get_running_loop())
    event = usage_pb2.UsageRecorded(
        event_id=str(uuid7()), request_id=str(request), kind=usage_pb2.USAGE_KIND_CHARGE, charge_nano_usd=7000
    )
    spool.append(Kind.FINISHED, request.bytes, event.SerializeToString())
    spool.close()
    async with edge_world(folder, truth=truth) as world:
        await until(lambda: world.bus.messages == 1 and truth.confirms > 3)
        assert (folder / str(dead)).exists()
        assert str(dead) not in truth.spenders
        truth.apply(event)
        await until(lambda: not (folder / str(dead)).exists())
        assert str(dead) in truth.spenders
        await world.settled()


async def test_a_spool_that_cant_be_read_keeps_no_other_from_its_replay(tmp_path: Path):
    """Its own records wait for its disk; those of the next one are charged, and its spool is deleted."""
    truth, request = Truth(), uuid7()
    folder = tmp_path / "spool"
    broken, dead = sorted((uuid7(), uuid7()), key=str)
    for incarnation in (broken, dead):
        spool = Spool.open(
            folder, incarnation=incarnation, sync="group", max_bytes=1 << 24, loop=asyncio.get_running_loop()
        )
        event = usage_pb2.UsageRecorded(
            event_id=str(uuid7()), request_id=str(request), kind=usage_pb2.USAGE_KIND_CHARGE, charge_nano_usd=7000
        )
        spool.append(Kind.FINISHED, request.bytes, event.SerializeToString())
        spool.close()
    segment = folder / str(broken) / "1.spool"
    segment.unlink()
    segment.mkdir()
    async with edge_world(folder, truth=truth) as world:
        await until(lambda: not (folder / str(dead)).exists())
        await world.settled()
    assert truth.applied[str(request)].charge_nano_usd == 7000
    assert (folder / str(broken)).exists()


async def test_what_the_disk_would_not_forget_is_forgotten_later(world: World, monkeypatch):
    """A failed tombstone costs a round, not the spool's room for ever."""
    spool_dir, gone = world.spool_dir / str(world.incarnation), Spool._bury
    refused: list[int] = []

    def bury(self: Spool, segment, tombstones: bytes) -> None:
        if len(refused) < 3:
            refused.append(1)
            raise OSError(28, "no space")
        gone(self, segment, tombstones)

    monkeypatch.setattr(Spool, "_bury", bury)
    async with world.post(world.body({"output_tokens": 3})) as response:
        await response.read()
    await world.settled()
    await until(lambda: len(refused) == 3 and any(spool_dir.glob("*.gone")))


async def test_only_what_is_overdue_is_sent_again(world: World, monkeypatch):
    """Before its time an event that billing doesn't know is asked about, and not sent."""
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (60.0, 60.0, 60.0))
    world.truth.lose_events = True
    async with world.post(world.body({"output_tokens": 3})) as response:
        await response.read()
    await until(lambda: world.bus.messages == 1)
    asked = world.truth.confirms
    await until(lambda: world.truth.confirms > asked + 3)
    assert world.bus.messages == 1
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (0.0, 0.0, 0.0))
    world.truth.lose_events = False
    world.truth.apply(next(iter(world.publisher._pending.values())).event)
    await world.settled()


async def test_with_the_spool_full_requests_are_refused_rather_than_served_uncharged(tmp_path: Path, monkeypatch):
    """Readiness falls before there is no room left; what was served is charged, and then there is room again."""
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (60.0, 60.0, 60.0))
    async with edge_world(tmp_path / "spool", spool_bytes=1 << 15) as world:
        world.truth.lose_events = True
        settlement, served = world.relay.tools.settlement, 0
        while settlement.has_room:
            async with world.post(world.body({"output_tokens": 1})) as response:
                assert response.status == 200
            served += 1
        written = sum(path.stat().st_size for path in (tmp_path / "spool").rglob("*.spool"))
        assert (1 << 15) * 0.8 < written < 1 << 15
        calls = len(world.truth.decisions)
        async with world.post(world.body({"output_tokens": 1})) as response:
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
        assert len(world.truth.decisions) == calls
        for each in list(world.publisher._pending.values()):
            world.truth.apply(each.event)
        await world.settled()
        assert world.truth.applied_count == served
        await until(lambda: settlement.has_room)
        async with world.post(world.body({"output_tokens": 1})) as response:
            assert response.status == 200
        for each in list(world.publisher._pending.values()):
            world.truth.apply(each.event)
        await world.settled()


async def test_a_clean_stop_leaves_no_spool(tmp_path: Path):
    """What billing has confirmed is forgotten on disk too."""
    folder = tmp_path / "spool"
    async with edge_world(folder) as world:
        async with world.post(world.body({"output_tokens": 3}, stream=True)) as response:
            await response.read()
        await world.settled()
    assert list(folder.iterdir()) == []


async def test_a_grant_is_listed_until_its_event_is_confirmed(world: World):
    """Statements list running draws, and settled ones until billing has their event."""
    world.bus.up = False
    async with world.post(world.body({"output_tokens": 3})) as response:
        await response.read()
    await world.purse.state()
    assert len(world.truth.statements[-1]) == 1
    world.bus.up = True
    await world.settled()
    await world.purse.state()
    assert world.truth.statements[-1] == []
