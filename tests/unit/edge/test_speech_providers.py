"""Speech of providers over HTTP: relayed as it comes, and what is no sound is none."""

import asyncio
import base64
import json
import math
import struct

import pytest
from aiohttp import web

from pricing.charge import charge_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens, Units
from tests.unit.edge.test_speech import BY_CHARACTER, BY_MINUTE, BY_TOKEN, TEXT, asked, heard
from tests.unit.edge.web_provider import Provider, status, stream, whole
from tests.unit.edge.world import World
from tollbridge.usage.v1 import usage_pb2
from upstream.sound_encoder import RATE, encoded

SAMPLES = b"".join(struct.pack("<h", int(8000 * math.sin(at * 0.06))) for at in range(RATE))
SOUND = encoded(SAMPLES, "mp3")


def priced(world: World, rates: dict) -> None:
    """What the provider's model costs."""
    world.truth.routes = [{**world.truth.routes[0], "rates": rates}]


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(sound: bytes) -> bytes:
    return event(type="speech.audio.delta", audio=base64.b64encode(sound).decode())


async def test_sound_is_relayed_while_it_is_made(*, world: World, provider: Provider):
    """The provider goes on only when its first bytes have reached the client."""
    priced(world, BY_CHARACTER)
    reached = asyncio.Event()
    provider.handlers = [stream(SOUND[:3000], reached, SOUND[3000:])]
    async with world.post(**asked()) as response:
        first = await asyncio.wait_for(response.content.readany(), 20)
        assert SOUND.startswith(first)
        reached.set()
        assert first + await response.read() == SOUND
    assert provider.calls[0] == {"model": "sandbox-1", "input": TEXT, "voice": "alloy"}


async def test_a_provider_that_knows_no_events_is_relayed_all_the_same(*, world: World, provider: Provider):
    """It is counted then: a token is so much sound, and the text is known."""
    priced(world, BY_TOKEN)
    provider.handlers = [stream(SOUND[:5], SOUND[5:])]
    async with world.post(**asked()) as response:
        assert await response.read() == SOUND
    assert provider.calls[0]["stream_format"] == "sse"
    found = await world.only_event()
    assert found.tokens.audio_output == pytest.approx(21, abs=2)
    assert (found.tokens.input > 5, found.evidence) == (True, usage_pb2.EVIDENCE_COUNTED)


async def test_events_become_a_file_however_they_are_cut(*, world: World, provider: Provider):
    """With the usage at their end."""
    priced(world, BY_TOKEN)
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    sent = delta(SOUND[:1]) + delta(SOUND[1:3000]) + delta(SOUND[3000:]) + event(type="speech.audio.done", usage=usage)
    provider.handlers = [stream(sent[:40], sent[40:5000], sent[5000:])]
    async with world.post(**asked()) as response:
        assert response.headers["content-type"] == "audio/mpeg"
        assert await response.read() == SOUND
    price = PriceVersion(rates=Rates(**BY_TOKEN), cost=Rates(**BY_TOKEN))
    expected = charge_nano_usd(Tokens(input=14, audio_output=101), Units(requests=1), price)
    assert (await world.only_event()).charge_nano_usd == expected == 14 * 600 + 101 * 12_000


async def test_another_format_than_was_asked_for_is_named_and_measured_as_it_is(*, world: World, provider: Provider):
    """Some providers always send the same."""
    priced(world, BY_MINUTE)
    provider.handlers = [stream(encoded(SAMPLES, "wav"))]
    async with world.post(**asked(response_format="opus")) as response:
        assert response.headers["content-type"] == "audio/wav"
        assert heard(await response.read(), "wav") == ("wav", 1000)
    assert (await world.only_event()).units.milliseconds == 1000


@pytest.mark.parametrize(
    ("rates", "answer"),
    [
        (BY_CHARACTER, whole({"error": {"message": "busy"}})),
        (BY_CHARACTER, stream(b"<html>no</html> and more of it")),
        (BY_CHARACTER, stream()),
        (BY_TOKEN, stream(delta(SOUND[:0]) + event(type="error", error={"message": "busy"}))),
        (BY_TOKEN, stream(b"data: nonsense\n\n" + delta(SOUND))),
        (BY_TOKEN, stream(event(type="speech.audio.delta", audio="?"))),
        (BY_CHARACTER, status(500)),
    ],
)
async def test_what_is_no_sound_is_a_failure_that_costs_nothing(
    *, world: World, provider: Provider, rates: dict, answer
):
    """And would be tried elsewhere."""
    priced(world, rates)
    provider.handlers = [answer]
    async with world.post(**asked()) as response:
        assert response.status == 502, await response.text()
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000


async def test_a_providers_refusal_names_its_field(*, world: World, provider: Provider):
    """As the provider says it."""
    priced(world, BY_CHARACTER)

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no such voice", "param": "voice"}}, status=400)

    provider.handlers = [refuse]
    async with world.post(**asked()) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "voice")
