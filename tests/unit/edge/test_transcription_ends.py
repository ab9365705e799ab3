"""How transcriptions can end, and what each end charges: the sound was heard, whoever left meanwhile."""

import asyncio
import json

import pytest

from pricing.prices import PriceVersion, Rates
from services.billing.charges import Window, check
from tests.unit.edge.sound import form
from tests.unit.edge.world import World, until
from tollbridge.usage.v1 import usage_pb2

RATES = {"per_minute": 6_000_000}
PRICE = PriceVersion(rates=Rates(**RATES), cost=Rates(**RATES))
ANY_TIME = Window(earliest_ms=0, latest_ms=1 << 50)
AS_REPORTED, AS_COUNTED = 300_000, 250_000
GONE, BROKEN = usage_pb2.ENDED_CLIENT_GONE, usage_pb2.ENDED_UPSTREAM_FAILED


@pytest.fixture(autouse=True)
def by_minute(world: World) -> None:
    """The model is sold by the minute."""
    world.truth.routes = [{"rates": RATES}]


def scripted(directive: dict, **fields: str) -> dict:
    """A form whose prompt scripts the sandbox."""
    return form(prompt=f"#sandbox {json.dumps(directive)}", **fields)


async def status_of(world: World, asked: dict) -> int:
    """The status of the whole answer."""
    async with world.post(**asked) as response:
        await response.read()
        return response.status


async def ended(world: World) -> usage_pb2.UsageRecorded:
    """The one event, which billing works out as edge did."""
    event = await world.only_event()
    assert check(event, PRICE, within=ANY_TIME).charge_nano_usd == event.charge_nano_usd
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000 - event.charge_nano_usd
    return event


@pytest.mark.parametrize(("policy", "charge"), [("drain", AS_REPORTED), ("cancel", 0), ("absorb", 0)])
async def test_who_leaves_before_a_whole_transcript_pays_for_one_that_was_read(
    *, world: World, policy: str, charge: int
):
    """And for nothing where nothing was: they had no byte of it."""
    world.truth.on_disconnect = policy
    asking = asyncio.create_task(status_of(world, scripted({"first_byte_ms": 700})))
    await until(lambda: bool(world.relay.door._through_s))  # the provider is asked: who leaves before, asked nothing
    asking.cancel()
    event = await ended(world)
    assert (event.ended, event.charge_nano_usd, event.policy) == (GONE, charge, policy)


@pytest.mark.parametrize(("policy", "charge"), [("drain", AS_REPORTED), ("cancel", AS_COUNTED), ("absorb", 0)])
async def test_who_leaves_a_streamed_transcript_pays_by_the_policy(*, world: World, policy: str, charge: int):
    """What was cut was heard all the same: its length is the file's."""
    world.truth.on_disconnect = policy
    asked = scripted({"gap_ms": 50}, stream="true")
    async with world.post(**asked) as response:
        await response.content.readuntil(b"\n\n")
        response.close()
    event = await ended(world)
    assert (event.ended, event.charge_nano_usd, event.policy) == (GONE, charge, policy)


async def test_a_transcript_that_breaks_off_is_not_charged(world: World):
    """What it cost the house is written down."""
    async with world.post(**scripted({"fail_after_chunks": 2}, stream="true")) as response:
        assert "transcript.text.done" not in await response.text()
    event = await ended(world)
    assert (event.ended, event.charge_nano_usd, event.provider_cost_nano_usd) == (BROKEN, 0, AS_COUNTED)


async def test_a_failed_transcription_is_not_charged(world: World):
    """Its hold is given back."""
    async with world.post(**scripted({"status": 500})) as response:
        assert response.status >= 500, await response.text()
    assert (await ended(world)).charge_nano_usd == 0


async def test_many_sounds_on_a_balance_for_a_few_are_as_many_as_it_pays(world: World):
    """What one could cost is held for it, so none of them can take another's."""
    held = 6_000_000 * 3625 // 60_000  # two and a half seconds, with room
    world.truth.balance_nano_usd = 3 * held + held // 2
    asked = [scripted({"first_byte_ms": 200}) for _ in range(10)]
    statuses = await asyncio.gather(*(status_of(world, each) for each in asked))
    assert sorted(statuses) == [200] * 3 + [402] * 7
    await until(lambda: len(world.truth.applied) == 3)
    assert sum(event.charge_nano_usd for event in world.truth.applied.values()) == 3 * AS_REPORTED
    await world.settled()
