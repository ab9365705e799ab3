"""A tab: one request's account, from its first draw to its one record."""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens, Units
from services.edge.spending import settlement
from services.edge.spending.purse import Draw, Purse
from services.edge.spending.settlement import Ending, Facts, Settlement, Tab, Use
from services.edge.spool import spool as spool_module
from services.edge.spool import spool_files
from services.edge.spool.spool import Kind, Spool
from services.edge.spool.spool_files import read
from tests.fakes.routes import route_to
from tests.unit.edge.test_shared_draws import Billing
from tollbridge.usage.v1 import usage_pb2
from upstream.route import WireProtocol

PRICE = PriceVersion(rates=Rates(output=1), cost=Rates(output=1))
ROUTE = route_to(model="fast", protocol=WireProtocol.SANDBOX, price=PRICE)


FACTS = Facts(
    request_id=uuid4(),
    customer_id="c",
    key_id="k",
    operation="chat",
    stream=False,
    started_at_us=0,
    arrived_s=0.0,
    traceparent="",
)


class Outbox:
    """Takes what has ended."""

    has_room = True

    def __init__(self) -> None:
        self.ended: list[usage_pb2.UsageRecorded] = []

    def add(self, event: usage_pb2.UsageRecorded, *, payload: bytes, key: bytes) -> None:
        assert (payload, key) == (event.SerializeToString(), FACTS.request_id.bytes)
        self.ended.append(event)

    def find(self, request_id: str) -> usage_pb2.UsageRecorded | None:
        return next((event for event in self.ended if event.request_id == request_id), None)


@dataclasses.dataclass
class Desk:
    """A purse, and a tab over a spool on disk."""

    purse: Purse
    tab: Tab
    segment: Path
    outbox: Outbox

    async def draw(self) -> Draw:
        return await self.purse.draw(customer_id="c", request_id="r", worst_case_nano_usd=10)


@contextmanager
def desk_over(folder: Path, *, sync: Literal["group", "always"]) -> Iterator[Desk]:
    """Nothing was drawn yet."""
    loop, spender, outbox = asyncio.get_running_loop(), uuid4(), Outbox()
    spool = Spool.open(folder, incarnation=spender, sync=sync, max_bytes=1 << 20, loop=loop)
    purse = Purse(billing=Billing(), spender=spender)
    tab = Settlement(spool=spool, purse=purse, outbox=outbox).tab(FACTS)
    yield Desk(purse, tab, folder / str(spender) / "1.spool", outbox)
    spool.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    with desk_over(tmp_path, sync="group") as made:
        yield made


async def test_a_request_is_in_the_spool_once_its_tab_is_open(desk: Desk):
    """The provider is called then; should we die, its void is made of this."""
    await desk.tab.open(route=ROUTE, draw=await desk.draw())
    assert [record.kind for _, record in read(desk.segment)] == [Kind.STARTED]


async def test_with_always_a_request_is_on_the_disk_once_its_tab_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also for a later attempt: a machine that loses its power then has a record of all that a provider was asked."""
    synced: list[int] = []
    plain = spool_module.sync_files

    def watched(descriptors: list[int], folder: Path) -> None:
        plain(descriptors, folder)
        synced.append(os.fstat(descriptors[0]).st_size)

    monkeypatch.setattr(spool_module, "sync_files", watched)
    with desk_over(tmp_path, sync="always") as desk:
        draw = await desk.draw()
        for begun in (1, 2):
            await desk.tab.open(route=ROUTE, draw=draw)
            assert synced[-1:] == [desk.segment.stat().st_size]
            assert [record.kind for _, record in read(desk.segment)] == [Kind.STARTED] * begun


async def test_with_always_no_provider_is_called_when_the_disk_cant_keep_what_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Opening the tab fails then, and the request with it, uncharged."""
    with desk_over(tmp_path, sync="always") as desk:
        with monkeypatch.context() as patch:
            patch.setattr(spool_files, "_fdatasync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            with pytest.raises(OSError, match="Input/output"):
                await desk.tab.open(route=ROUTE, draw=await desk.draw())
        desk.tab.close(Ending(ended=settlement.ENDED_GATEWAY_FAILED, http_status=503), now_s=1.0)
        assert [event.kind for event in desk.outbox.ended] == [usage_pb2.USAGE_KIND_VOID]
        assert desk.purse.open_count == 0


async def test_a_later_attempts_draw_ends_the_one_before(desk: Desk):
    """It may come from another lease: then nobody else ends the first, and it would be held for ever."""
    first, second = await desk.draw(), await desk.draw()
    await desk.tab.open(route=ROUTE, draw=first)
    assert desk.purse.open_count == 2
    await desk.tab.open(route=ROUTE, draw=second)
    assert desk.purse.open_count == 1
    await desk.tab.open(route=ROUTE, draw=second)
    assert (desk.tab.draw, desk.purse.open_count) == (second, 1)


@pytest.mark.parametrize("output", [None, 3])
async def test_an_end_that_could_not_be_written_leaves_nothing_in_the_one_that_is(desk: Desk, output: int | None):
    """The record says of its own end alone: else a void would say what was used, or a charge of counts it is not of."""
    await desk.tab.open(route=ROUTE, draw=await desk.draw())
    broken = Use(
        tokens=Tokens(input=7, cached_input=5),
        units=Units(images=1),
        evidence=settlement.EVIDENCE_PROVIDER,
        reported_cost_nano_usd=9,
        generation_id="\ud800",  # no text that can be written
        implausible=True,
    )
    with pytest.raises(UnicodeEncodeError):
        desk.tab.close(
            Ending(ended=settlement.ENDED_COMPLETE, http_status=200, use=broken, first_byte_s=1.0), now_s=2.0
        )
    use = None
    if output is not None:
        use = Use(tokens=Tokens(output=output), units=Units(), evidence=settlement.EVIDENCE_COUNTED)
    before, first = desk.outbox.ended.copy(), desk.tab.event
    desk.tab.close(Ending(ended=settlement.ENDED_GATEWAY_FAILED, http_status=500, use=use), now_s=3.0)
    assert first is not None
    (event,) = desk.outbox.ended
    assert (before, event.event_id, event.latency_ms) == ([], first.event_id, 3000)
    assert (event.tokens, event.units) == (usage_pb2.Tokens(output=output or 0), usage_pb2.Units())
    assert (event.first_byte_ms, event.provider_reported_cost_nano_usd) == (-1, -1)
    assert (event.evidence, event.implausible) == (use.evidence if use else usage_pb2.EVIDENCE_UNSPECIFIED, False)
    assert desk.purse.open_count == 0
