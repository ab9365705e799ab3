"""What a dead incarnation held: what others wait for is back at once, its money when billing has its events."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.spending import replay
from services.edge.spending.replay import Replay
from services.edge.spool.spool import Kind, Spool
from tests.unit.edge.world import edge_world, until
from tollbridge.usage.v1 import usage_pb2


class Outbox:
    """Billing hears of its events when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def add_former(self, _event: usage_pb2.UsageRecorded, *, forget: Callable[[], None]) -> None:
        self.waiting.append(forget)


def left_behind(directory: Path) -> UUID:
    """The spool of an incarnation that died with a request running."""
    dead, request = uuid7(), uuid7()
    spool = Spool.open(directory, incarnation=dead, sync="group", max_bytes=1 << 24, loop=asyncio.get_running_loop())
    event = usage_pb2.UsageRecorded(event_id=str(uuid7()), request_id=str(request), spender=str(dead))
    spool.append(Kind.STARTED, request.bytes, event.SerializeToString())
    spool.close()
    return dead


async def test_slots_and_limits_of_a_dead_edge_do_not_wait_for_its_charges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They are given back by the first look that reaches their owners; credit leases end when all is confirmed."""
    monkeypatch.setattr(replay, "LOOK_EVERY_S", 0.05)
    dead, outbox = left_behind(tmp_path), Outbox()
    tried: list[str] = []
    freed: list[str] = []
    ended: list[str] = []

    async def free(spender: str) -> None:
        tried.append(spender)
        if len(tried) == 1:
            raise TollbridgeError(Code.UNAVAILABLE, "auth is away")
        freed.append(spender)

    async def end(spender: str) -> None:
        ended.append(spender)

    own = Replay(directory=tmp_path, own=uuid7(), outbox=outbox, free_shares=free, end_spender=end)
    running = asyncio.create_task(own.run())
    try:
        await until(lambda: bool(freed))
        assert (len(outbox), ended) == (1, [])
        outbox.waiting.pop()()
        await until(lambda: not (tmp_path / str(dead)).exists())
        assert (freed, ended) == ([str(dead)], [str(dead)])
    finally:
        running.cancel()


async def test_slots_and_limits_of_a_dead_edge_do_not_wait_for_another_that_has_no_room_for_its_charges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While billing is away and the outbox is full, whoever dies next still gives back at once what others wait for."""
    monkeypatch.setattr(replay, "LOOK_EVERY_S", 0.05)
    outbox, freed = Outbox(), list[str]()
    outbox.waiting = [lambda: None] * replay.ROOM
    first = left_behind(tmp_path)

    async def free(spender: str) -> None:
        freed.append(spender)

    async def end(_spender: str) -> None: ...

    own = Replay(directory=tmp_path, own=uuid7(), outbox=outbox, free_shares=free, end_spender=end)
    running = asyncio.create_task(own.run())
    try:
        await until(lambda: freed == [str(first)])
        second = left_behind(tmp_path)
        await until(lambda: freed == [str(first), str(second)])
        assert len(outbox) == replay.ROOM
        outbox.waiting.clear()
        await until(lambda: len(outbox) == 2)
        for forget in outbox.waiting:
            forget()
        await until(lambda: not list(tmp_path.iterdir()))
    finally:
        running.cancel()


async def test_what_a_dead_edge_ran_under_a_key_is_taken_over_when_billing_has_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever ran it again before, under the same request id, would be charged, and then told that it had failed."""
    monkeypatch.setattr(replay, "LOOK_EVERY_S", 0.05)
    async with edge_world(tmp_path) as world:
        world.bus.up = False
        dead = str(left_behind(tmp_path))
        await until(lambda: dead in world.owners.router_heard and len(world.publisher) == 1)
        assert not world.owners.claims.ended
        world.bus.up = True
        await until(lambda: world.owners.claims.ended == [dead])
        assert world.truth.applied


@pytest.mark.parametrize("turns", range(4))
async def test_a_replay_that_is_cancelled_as_a_spool_is_done_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
):
    """Billing's last word and the end of the process may come together: whoever starts next ends that spool."""
    monkeypatch.setattr(replay, "LOOK_EVERY_S", 3600.0)
    left_behind(tmp_path)
    outbox = Outbox()

    async def told(_spender: str) -> None: ...

    own = Replay(directory=tmp_path, own=uuid7(), outbox=outbox, free_shares=told, end_spender=told)
    running = asyncio.create_task(own.run())
    await until(lambda: len(outbox) == 1)
    outbox.waiting.pop()()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    done, _pending = await asyncio.wait([running], timeout=5)
    running.cancel()
    assert done


async def test_what_a_dead_edge_held_is_given_back_also_where_one_owner_of_it_is_away():
    """Router and auth are told each by itself, and who was away is told again."""
    told: list[str] = []

    class Owner:
        async def state_attempts(self, _listed: list[str], *, as_of: str, spender: str) -> float:
            raise TollbridgeError(Code.UNAVAILABLE, f"router is away at {as_of} for {spender}")

        async def end(self, *, spender: str) -> None:
            told.append(f"limits of {spender}")

    with pytest.raises(TollbridgeError, match="router is away"):
        await replay.free_shares("dead", router=Owner(), limits=Owner())
    assert told == ["limits of dead"]
