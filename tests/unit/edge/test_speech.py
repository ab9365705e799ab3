"""Speech through edge over real HTTP and gRPC: sound that plays, its exact price, and how it can end."""

import asyncio
import base64
import json
from decimal import Decimal

import aiohttp
import msgspec
import pytest

from pricing.charge import charge_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens, Units
from services.billing.charges import Window, check
from services.edge.bodies.speech_request import parse_speech
from tests.fakes import listener
from tests.fakes.listener import FORMATS_HERE
from tests.unit.edge.world import World
from tollbridge.usage.v1 import usage_pb2
from upstream import sound_encoder
from upstream.sandbox.speech import MS_PER_CHARACTER
from upstream.sound_encoder import CONTENT_TYPES, RATE

PATH = "/audio/speech"
TEXT = "Hello there, this is a text of some fifty characters."
MS = len(TEXT) * MS_PER_CHARACTER
BY_CHARACTER, BY_MINUTE = {"per_million_characters": 15_000_000_000}, {"per_minute": 15_000_000}
BY_TOKEN = {"input": 600_000_000, "output": 12_000_000_000}
ANY_TIME = Window(earliest_ms=0, latest_ms=1 << 50)
GONE, BROKEN = usage_pb2.ENDED_CLIENT_GONE, usage_pb2.ENDED_UPSTREAM_FAILED


@pytest.fixture(autouse=True)
def by_character(world: World) -> None:
    """The model is sold by the character, unless a test says otherwise."""
    world.truth.routes = [{"rates": BY_CHARACTER}]


def asked(text: str = TEXT, directive: dict | None = None, **fields: object) -> dict:
    """What to post; a directive scripts the sandbox, and is spoken too."""
    spoken = f"{text}\n#sandbox {json.dumps(directive)}" if directive else text
    return {"path": PATH, "body": {"model": "fast", "input": spoken, **fields}}


def charge(rates: dict, *, tokens: Tokens | None = None, **units: int) -> int:
    """What so much costs."""
    price = PriceVersion(rates=Rates(**rates), cost=Rates(**rates))
    return charge_nano_usd(tokens or Tokens(), Units(requests=1, **units), price)


def heard(sound: bytes, wanted: str) -> tuple[str, float]:
    """The container of a file, and how many milliseconds a player would play of it."""
    if wanted == "pcm":
        return "pcm", len(sound) / 2 / RATE * 1000
    container, played = listener.heard(sound)
    return container, played * 1000


async def ended(world: World, rates: dict) -> usage_pb2.UsageRecorded:
    """The one event, which billing works out as edge did."""
    event = await world.only_event()
    price = PriceVersion(rates=Rates(**rates), cost=Rates(**rates))
    assert check(event, price, within=ANY_TIME).charge_nano_usd == event.charge_nano_usd
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000 - event.charge_nano_usd
    return event


@pytest.mark.parametrize("wanted", FORMATS_HERE)
async def test_each_format_plays_as_long_as_the_text_at_the_price_of_its_characters(*, world: World, wanted: str):
    """The container that was asked for, its type in the head, and the charge to the nano-dollar."""
    async with world.post(**asked(response_format=wanted)) as response:
        sound = await response.read()
        assert (response.status, response.headers["content-type"]) == (200, CONTENT_TYPES[wanted])
    container, ms = heard(sound, wanted)
    assert container == wanted
    assert ms == pytest.approx(MS, abs=80)
    event = await ended(world, BY_CHARACTER)
    assert event.charge_nano_usd == charge(BY_CHARACTER, characters=len(TEXT)) == len(TEXT) * 15_000
    assert (event.operation, event.units.characters) == ("speech", len(TEXT))
    assert event.units.milliseconds == pytest.approx(MS, abs=80)
    assert world.truth.decisions[0].operation == "speech"


@pytest.mark.parametrize("speed", [0.25, 1.5, 4.0])
async def test_speed_changes_how_long_it_plays(*, world: World, speed: float):
    """And by the minute what it costs: what was made, measured."""
    world.truth.routes = [{"rates": BY_MINUTE}]
    async with world.post(**asked(speed=speed, response_format="wav")) as response:
        _, ms = heard(await response.read(), "wav")
    assert ms == pytest.approx(MS / speed, abs=1)
    event = await ended(world, BY_MINUTE)
    assert event.units.milliseconds == int(ms)
    assert event.charge_nano_usd == charge(BY_MINUTE, milliseconds=int(ms))
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED


async def test_tokens_are_charged_as_the_provider_reports_them(world: World):
    """Which only its events do: they are asked for, and the client gets its file."""
    world.truth.routes = [{"rates": BY_TOKEN}]
    async with world.post(**asked(directive={"prompt_tokens": 12, "output_tokens": 77})) as response:
        assert heard(await response.read(), "mp3")[0] == "mp3"
    event = await ended(world, BY_TOKEN)
    assert (event.tokens.input, event.tokens.audio_output) == (12, 77)
    assert event.charge_nano_usd == charge(BY_TOKEN, tokens=Tokens(input=12, audio_output=77))
    assert event.evidence == usage_pb2.EVIDENCE_PROVIDER


@pytest.mark.parametrize("directive", [{"usage": False}, {"output_tokens": 100_000}])
async def test_tokens_that_nobody_reports_are_counted_by_the_length(*, world: World, directive: dict):
    """So are those that can't be."""
    world.truth.routes = [{"rates": BY_TOKEN}]
    async with world.post(**asked(directive=directive, response_format="pcm")) as response:
        ms = len(await response.read()) * 1000 // 2 // RATE
    event = await ended(world, BY_TOKEN)
    assert event.tokens.audio_output == -(-ms * 21 // 1000)
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED
    assert event.implausible == ("output_tokens" in directive)


@pytest.mark.parametrize("rates", [BY_CHARACTER, BY_TOKEN])
async def test_events_carry_the_sound_and_what_it_cost(*, world: World, rates: dict):
    """Whatever the provider sends."""
    world.truth.routes = [{"rates": rates}]
    async with world.post(**asked(stream_format="sse", response_format="flac")) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = await response.text()
    events = [json.loads(line[6:], parse_float=Decimal) for line in text.splitlines() if line]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    sound = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert heard(sound, "flac") == ("flac", MS)
    event = await ended(world, rates)
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["cost"] * 10**9 == event.charge_nano_usd > 0


async def test_the_first_bytes_come_before_the_provider_has_finished(world: World):
    """Which makes a long pause after them."""
    world.truth.on_disconnect = "cancel"
    async with world.post(**asked(directive={"chunks": 2, "gap_ms": 600_000})) as response:
        assert await asyncio.wait_for(response.content.readany(), 20)
        response.close()
    await world.only_event()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "midi"}, "response_format"),
        ({"voice": "nobody"}, "voice"),
        ({"voice": ""}, "voice"),
        ({"voice": 5}, "voice"),
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.5}, "speed"),
        ({"input": ""}, "input"),
        ({"input": 5}, "input"),
        ({"stream_format": "tape"}, "stream_format"),
        ({"model": ""}, "model"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(*, world: World, fields: dict, param: str):
    """Before anything is spoken, and free of charge."""
    async with world.post(**asked(**fields)) as response:
        answer = await response.json()
        assert (response.status, answer["error"]["param"]) == (400, param), answer
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000


async def test_a_format_that_this_machine_can_not_make_is_refused_by_its_name(
    *, world: World, monkeypatch: pytest.MonkeyPatch
):
    """AAC without ffmpeg: as one that there isn't, free of charge."""
    monkeypatch.setattr(sound_encoder, "ffmpeg_path", lambda: None)
    async with world.post(**asked(response_format="aac")) as response:
        answer = await response.json()
        assert (response.status, answer["error"]["param"]) == (400, "response_format"), answer
        assert "ffmpeg" in answer["error"]["message"]
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000


async def test_a_provider_that_breaks_off_costs_nothing(world: World):
    """And its client sees that the file is not whole."""
    directive = {"chunks": 4, "fail_after_chunks": 2, "gap_ms": 20}
    async with world.post(**asked(directive=directive)) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    event = await ended(world, BY_CHARACTER)
    assert (event.ended, event.charge_nano_usd) == (BROKEN, 0)
    assert event.provider_cost_nano_usd > 0


async def test_events_that_break_off_end_with_an_error(world: World):
    """A stream of events can say so."""
    directive = {"chunks": 4, "fail_after_chunks": 2}
    async with world.post(**asked(directive=directive, stream_format="sse")) as response:
        text = await response.text()
    assert '"error"' in text
    assert "speech.audio.done" not in text
    assert (await ended(world, BY_CHARACTER)).charge_nano_usd == 0


@pytest.mark.parametrize("policy", ["drain", "cancel", "absorb"])
async def test_who_leaves_pays_by_the_policy(*, world: World, policy: str):
    """All that was made, what of the text was delivered, or nothing."""
    world.truth.on_disconnect = policy
    request = asked(directive={"chunks": 4, "gap_ms": 300}, response_format="wav")
    async with world.post(**request) as response:
        await response.content.readany()
        response.close()
    event = await ended(world, BY_CHARACTER)
    whole = len(request["body"]["input"])
    assert (event.ended, event.policy) == (GONE, policy)
    if policy == "cancel":
        assert 0 < event.units.characters < whole
        assert event.charge_nano_usd == charge(BY_CHARACTER, characters=event.units.characters)
    else:
        assert event.charge_nano_usd == (charge(BY_CHARACTER, characters=whole) if policy == "drain" else 0)


async def test_a_repetition_under_a_key_is_the_same_file_and_no_charge(world: World):
    """With its type."""
    seen = []
    for _ in range(2):
        async with world.post(**asked(), headers={"idempotency-key": "speech-1"}) as response:
            seen.append((response.status, response.headers["content-type"], await response.read()))
    assert seen[0] == seen[1]
    assert seen[0][1] == "audio/mpeg"
    assert (await ended(world, BY_CHARACTER)).charge_nano_usd == charge(BY_CHARACTER, characters=len(TEXT))


async def test_what_could_cost_more_than_the_client_would_pay_is_refused(world: World):
    """One nano-dollar below the price is enough for that, and the price itself is not."""
    price = Decimal(len(TEXT) * 15_000) / 10**9
    for limit, status in ((price - Decimal("1e-9"), 400), (price, 200)):
        async with world.post(**asked(), headers={"x-max-cost": f"{limit:f}"}) as response:
            assert response.status == status
            await response.read()


def test_a_voice_is_chosen_for_who_names_none():
    """As some of the documents that clients are written by promise."""
    request = parse_speech(b'{"model": "m", "input": "Hi", "voice": null}')
    assert request.fields["voice"] == "alloy"
    own = parse_speech(b'{"model": "m", "input": "Hi", "voice": {"id": "v"}}')
    assert own.fields["voice"] == msgspec.Raw(b'{"id": "v"}')
