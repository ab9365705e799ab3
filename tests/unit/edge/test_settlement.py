"""A tab: one request's account, from its first draw to its one record."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pytest

from pricing.prices import PriceVersion, Rates
from services.edge.spending.purse import Draw, Purse
from services.edge.spending.settlement import Facts, Outbox, Settlement, Tab
from services.edge.spool.spool import Kind, Spool
from services.edge.spool.spool_files import read
from tests.fakes.routes import route_to
from tests.unit.edge.test_shared_draws import Billing
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


@dataclasses.dataclass
class Desk:
    """A purse, and a tab over a spool on disk."""

    purse: Purse
    tab: Tab
    segment: Path

    async def draw(self) -> Draw:
        return await self.purse.draw(customer_id="c", request_id="r", worst_case_nano_usd=10)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Nothing was drawn yet."""
    loop, spender = asyncio.get_running_loop(), uuid4()
    spool = Spool.open(tmp_path, incarnation=spender, sync="group", max_bytes=1 << 20, loop=loop)
    purse = Purse(billing=Billing(), spender=spender)
    settlement = Settlement(spool=spool, purse=purse, outbox=cast("Outbox", SimpleNamespace()))
    yield Desk(purse, settlement.tab(FACTS), tmp_path / str(spender) / "1.spool")
    spool.close()


async def test_a_request_is_in_the_spool_once_its_tab_is_open(desk: Desk):
    """The provider is called then; should we die, its void is made of this."""
    await desk.tab.open(route=ROUTE, draw=await desk.draw())
    assert [record.kind for _, record in read(desk.segment)] == [Kind.STARTED]


async def test_a_later_attempts_draw_ends_the_one_before(desk: Desk):
    """It may come from another lease: then nobody else ends the first, and it would be held for ever."""
    first, second = await desk.draw(), await desk.draw()
    await desk.tab.open(route=ROUTE, draw=first)
    assert desk.purse.open_count == 2
    await desk.tab.open(route=ROUTE, draw=second)
    assert desk.purse.open_count == 1
    await desk.tab.open(route=ROUTE, draw=second)
    assert (desk.tab.draw, desk.purse.open_count) == (second, 1)
