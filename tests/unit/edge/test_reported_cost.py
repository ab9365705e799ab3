"""With `cost: {reported: true}` the provider's own cost is charged, and billing works out the same from the event."""

import pytest

from pricing.prices import PriceVersion, Rates
from services.billing.charges import Window, check
from tests.unit.edge.web_provider import Provider, chunk, stream
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import RATES

PRICE = PriceVersion(rates=Rates(**RATES), cost=Rates(**RATES), cost_reported=True)
ANY_TIME = Window(earliest_ms=0, latest_ms=1 << 50)
BY_LIST = 10 * 1000 + 2 * 4000


@pytest.mark.parametrize(
    ("cost", "charge", "flagged"),
    [
        (0.0000123, 12_300, False),
        ("0.0000123", 12_300, False),
        (0, 0, False),
        (0.000018, BY_LIST, False),
        (0.0000180001, BY_LIST, True),
        (5, BY_LIST, True),
        (-1, BY_LIST, True),
        ("NaN", BY_LIST, True),
        (1e30, BY_LIST, True),
        (None, BY_LIST, True),
    ],
)
async def test_the_reported_cost_is_charged_or_the_list_price_with_a_flag(
    *, world: World, provider: Provider, cost: object, charge: int, flagged: bool
):
    """A missing, impossible or too high cost is replaced by the list price of what the provider counted."""
    world.truth.routes[0]["cost_reported"] = True
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "cost": cost}
    end = (chunk(finish="stop"), chunk(usage=usage, choices=[]), b"data: [DONE]\n\n")
    provider.handlers = [stream(chunk("Hello"), *end)]
    async with world.post(world.body(stream=True)) as response:
        await response.read()
    event = await world.only_event()
    assert (event.charge_nano_usd, event.implausible) == (charge, flagged)
    assert (event.tokens.input, event.tokens.output) == (10, 2)
    assert event.price_version == PRICE.id
    assert check(event, PRICE, within=ANY_TIME).charge_nano_usd == charge
    await world.settled()


async def test_a_fixed_price_does_not_look_at_the_reported_cost(world: World, provider: Provider):
    """Without `reported` the list price is charged, and no cost is missed."""
    provider.handlers = [
        stream(
            chunk("Hello"),
            chunk(finish="stop"),
            chunk(usage={"prompt_tokens": 10, "completion_tokens": 2, "cost": 5}, choices=[]),
            b"data: [DONE]\n\n",
        )
    ]
    async with world.post(world.body(stream=True)) as response:
        await response.read()
    event = await world.only_event()
    assert (event.charge_nano_usd, event.implausible) == (BY_LIST, False)
