"""A tab: one request's account, from its first draw to its one record."""

from types import SimpleNamespace
from typing import cast
from uuid import uuid4

from pricing.prices import PriceVersion, Rates
from services.edge.purse import Draw, Purse
from services.edge.settlement import Facts, Outbox, Settlement
from tests.unit.edge.test_shared_draws import Billing
from upstream.client import Timeouts
from upstream.route import Bounds, Route, WireProtocol

PRICE = PriceVersion(rates=Rates(output=1), cost=Rates(output=1))
ROUTE = Route(
    attempt_id="a",
    model="fast",
    provider_id="p",
    provider_account_id="pa",
    protocol=WireProtocol.SANDBOX,
    base_url="",
    credential="",
    provider_model="m",
    timeouts=Timeouts(connect_s=1, first_byte_s=1, idle_s=1, total_s=1),
    price=PRICE,
    bounds=Bounds(),
)


class Spool:
    """Keeps nothing."""

    has_room = True

    def append(self, _) -> None: ...

    def append_now(self, _) -> None: ...

    async def written(self) -> None: ...


async def test_a_later_attempts_draw_ends_the_one_before():
    """It may come from another lease: then nobody else ends the first, and it would be held for ever."""
    purse = Purse(billing=Billing(), spender=uuid4())
    settlement = Settlement(spool=Spool(), purse=purse, outbox=cast("Outbox", SimpleNamespace()))
    facts = Facts(
        request_id=uuid4(),
        customer_id="c",
        key_id="k",
        operation="chat",
        stream=False,
        started_at_us=0,
        arrived_s=0.0,
        traceparent="",
    )
    tab = settlement.tab(facts)

    async def draw() -> Draw:
        return await purse.draw(customer_id="c", request_id="r", worst_case_nano_usd=10)

    first, second = await draw(), await draw()
    await tab.open(route=ROUTE, draw=first)
    assert purse.open_count == 2
    await tab.open(route=ROUTE, draw=second)
    assert purse.open_count == 1
    await tab.open(route=ROUTE, draw=second)
    assert (tab.draw, purse.open_count) == (second, 1)
