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
from services.edge.spool.spool import Kind, Record, Spool
from tests.unit.edge.world import until
from tollbridge.usage.v1 import usage_pb2


class Outbox:
    """Billing hears of its events when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def add_former(self, _event: usage_pb2.UsageRecorded, *, forget: Callable[[], None]) -> None:
        self.waiting.append(forget)


async def left_behind(directory: Path) -> UUID:
    """The spool of an incarnation that died with a request running."""
    dead, request = uuid7(), uuid7()
    spool = Spool.open(directory, incarnation=dead, sync="group", max_bytes=1 << 24, loop=asyncio.get_running_loop())
    event = usage_pb2.UsageRecorded(event_id=str(uuid7()), request_id=str(request), spender=str(dead))
    spool.append(Record(kind=Kind.STARTED, key=request.bytes, payload=event.SerializeToString()))
    await spool.written()
    spool.close()
    return dead


async def test_slots_and_limits_of_a_dead_edge_do_not_wait_for_its_charges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They are given back by the first look that reaches their owners; credit leases end when all is confirmed."""
    monkeypatch.setattr(replay, "LOOK_EVERY_S", 0.05)
    dead, outbox = await left_behind(tmp_path), Outbox()
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
