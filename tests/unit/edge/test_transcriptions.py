"""Transcriptions through edge over real HTTP and gRPC: every format, streams, and the exact charge by length."""

import dataclasses
import json
import threading
from decimal import Decimal

import pytest

from pricing.charge import charge_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens, Units
from services.edge.bodies import transcription_request
from services.edge.bodies.transcription_request import parser
from services.edge.paid.operations import TRANSCRIPTIONS
from tests.fakes.routes import route_to
from tests.unit.edge.sound import PATH, form, wav
from tests.unit.edge.world import World
from tollbridge.usage.v1 import usage_pb2
from upstream.form import Form, FormFile, read_form, write_form
from upstream.openai import transcriptions
from upstream.route import Bounds, WireProtocol

BY_MINUTE = PriceVersion(rates=Rates(per_minute=6_000_000), cost=Rates(per_minute=6_000_000))
SAID = "This is Tollbridge's built-in sandbox: nobody listened."


ROUTE = route_to(model="fast", provider_account_id="p-a", price=BY_MINUTE)


@pytest.fixture(autouse=True)
def by_minute(world: World) -> None:
    """The model is sold by the minute."""
    world.truth.routes = [{"rates": {"per_minute": 6_000_000}}]


async def test_a_transcript_is_charged_by_the_length_that_the_provider_heard(world: World):
    """Three seconds, as the provider rounds them, and not a nano-dollar more."""
    async with world.post(**form()) as response:
        answer = json.loads(await response.read(), parse_float=Decimal)
        assert response.status == 200, answer
        request_id = response.headers["x-request-id"]
    expected = charge_nano_usd(Tokens(), Units(requests=1, milliseconds=3000), BY_MINUTE)
    assert expected == 300_000
    cost = Decimal(expected) / 10**9
    assert answer == {"text": SAID, "usage": {"type": "duration", "seconds": 3, "cost": cost}}
    event = await world.event_of(request_id)
    assert (event.charge_nano_usd, event.operation, event.units.milliseconds) == (expected, "transcriptions", 3000)
    assert event.evidence == usage_pb2.EVIDENCE_PROVIDER
    assert world.truth.decisions[0].operation == "transcription"
    await world.settled()


@pytest.mark.parametrize(
    ("wanted", "begins"),
    [
        ("text", f"{SAID}\n"),
        ("srt", f"1\n00:00:00,000 --> 00:00:02,500\n{SAID}\n"),
        ("vtt", f"WEBVTT\n\n00:00:00.000 --> 00:00:02.500\n{SAID}\n"),
    ],
)
async def test_texts_and_subtitles_are_made_of_what_the_provider_said(world: World, wanted: str, begins: str):
    """And charged as the JSON that they come from."""
    async with world.post(**form(response_format=wanted)) as response:
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert await response.text() == begins
        event = await world.event_of(response.headers["x-request-id"])
    assert event.charge_nano_usd == 300_000
    await world.settled()


async def test_a_verbose_answer_keeps_its_segments(world: World):
    """Fields that we don't know come through."""
    async with world.post(**form(response_format="verbose_json")) as response:
        answer = await response.json()
    assert (answer["duration"], answer["segments"][0]["end"], answer["task"]) == (2.5, 2.5, "transcribe")
    await world.settled()


async def test_a_streamed_transcript_ends_with_its_cost(world: World):
    """The pieces as they come, then the whole with what it cost."""
    async with world.post(**form(stream="true")) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = (await response.text()).split("\n")
        request_id = response.headers["x-request-id"]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert "".join(event["delta"] for event in events[:-1]) == SAID
    assert {event["type"] for event in events[:-1]} == {"transcript.text.delta"}
    assert (events[-1]["type"], events[-1]["text"]) == ("transcript.text.done", SAID)
    assert events[-1]["usage"] == {"type": "duration", "seconds": 3, "cost": 0.0003}
    assert (await world.event_of(request_id)).charge_nano_usd == 300_000
    await world.settled()


async def test_without_usage_the_length_of_the_file_is_charged(world: World):
    """And the receipt says that we have counted."""
    async with world.post(**form(prompt='#sandbox {"usage": false}')) as response:
        answer = await response.json()
        event = await world.event_of(response.headers["x-request-id"])
    assert answer["usage"]["seconds"] == 3
    assert (event.evidence, event.charge_nano_usd) == (usage_pb2.EVIDENCE_COUNTED, 250_000)
    await world.settled()


async def test_a_sound_that_the_balance_cannot_pay_is_refused(world: World):
    """A provider can't be told to listen to less."""
    world.truth.balance_nano_usd = 200_000
    async with world.post(**form()) as response:
        assert response.status == 402, await response.text()
    await world.settled()
    assert world.truth.balance_nano_usd == 200_000


async def test_sound_that_nobody_counted_is_charged_as_sound(world: World):
    """Where a model is sold by the token, and its provider names none: by the price that sound has."""
    world.truth.routes = [{"rates": {"input": 1_000_000_000, "audio_input": 6_000_000_000, "output": 1_000_000_000}}]
    async with world.post(**form()) as response:
        assert (await response.json())["usage"]["input_tokens"] == 25
        event = await world.event_of(response.headers["x-request-id"])
    assert (event.tokens.audio_input, event.tokens.input) == (25, 0)
    assert event.charge_nano_usd == 25 * 6000 + event.tokens.output * 1000
    await world.settled()


async def test_a_refusal_speaks_of_no_tokens_where_fewer_would_not_help(world: World):
    """A sound costs what it is long."""
    world.truth.balance_nano_usd = 200_000
    async with world.post(**form()) as response:
        assert response.status == 402
        assert "tokens" not in await response.text()
    await world.settled()


@pytest.mark.parametrize(("wanted", "passed"), [("verbose_json", ["word"]), ("srt", []), ("vtt", [])])
def test_subtitles_are_made_of_segments_whatever_is_asked_for_beside(wanted: str, passed: list[str]):
    """A provider that is asked for words gives no segments."""
    asked = form(response_format=wanted, **{"timestamp_granularities[]": "word"})
    request = parser(streams=True)(asked["body"], [(b"content-type", asked["headers"]["content-type"].encode())])
    call = TRANSCRIPTIONS.wires[WireProtocol.OPENAI].call(request, ROUTE, max_tokens=1, request_id="r")
    sent = read_form(call.body, call.headers["content-type"])
    assert [value for name, value in sent.fields if name == "timestamp_granularities[]"] == passed
    assert ("response_format", "verbose_json") in sent.fields


async def test_the_same_form_is_the_same_request_whatever_its_boundary(world: World):
    """A client that tries again makes a new boundary."""
    answers = []
    for _ in range(2):
        asked = form()
        asked["headers"]["idempotency-key"] = "same"
        async with world.post(**asked) as response:
            assert response.status == 200, await response.text()
            answers.append(await response.read())
    assert answers[0] == answers[1]
    await world.settled()
    assert world.truth.applied_count == 1


async def test_translations_are_not_streamed(world: World):
    """They are the same otherwise."""
    async with world.post(**form(path="/audio/translations")) as response:
        assert (await response.json())["text"] == SAID
    async with world.post(**form(path="/audio/translations", stream="true")) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "stream")
    await world.settled()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"response_format": "docx"}, "response_format"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "response_format"),
        ({"timestamp_granularities[]": "letter"}, "timestamp_granularities"),
        ({"service_tier": "priority"}, "service_tier"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(world: World, fields: dict[str, str], param: str):
    """Before anything is held."""
    async with world.post(**form(**fields)) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, param)
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}", "application/json"),
        (b"", "multipart/form-data; boundary=a"),
        (b"--a\r\n\r\nx\r\n--a--\r\n", "multipart/form-data; boundary=a"),
        (
            b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--a--\r\n',
            "multipart/form-data; boundary=a",
        ),
        (b"--a--\r\n", "multipart/form-data; boundary=a"),
        (b"--a--\r\n", "multipart/form-data; boundary=" + "a" * 500),
    ],
    ids=range(6),
)
async def test_what_is_no_form_with_a_file_is_refused(world: World, body: bytes, content_type: str):
    """Whatever else it is."""
    async with world.post(body, path=PATH, headers={"content-type": content_type}) as response:
        assert response.status == 400, await response.text()


async def test_a_large_form_holds_nobody_up(world: World, monkeypatch: pytest.MonkeyPatch):
    """Its bytes are looked at beside the loop."""
    threads = []

    def noted(body: bytes, content_type: str) -> Form:
        threads.append(threading.current_thread())
        return read_form(body, content_type)

    monkeypatch.setattr(transcription_request, "read_form", noted)
    for seconds in (1, 100):
        async with world.post(**form(wav(seconds))) as response:
            assert response.status == 200, await response.text()
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()
    await world.settled()


async def test_tokens_of_sound_are_bounded_by_its_length():
    """Where a model is sold by the token, and whatever its provider claims."""
    body, content_type = write_form(
        [("prompt", "names")], [FormFile(field="file", name="a.wav", content_type="audio/wav", data=wav(10))]
    )
    request = parser(streams=True)(body, [(b"content-type", content_type.encode())])
    assert request.model == "whisper-1"
    assert request.duration.likely_ms == 10_000
    assert 10 * 50 < request.input_tokens(Bounds()) < 12 * 50
    assert 100 <= request.prompt_tokens("m") <= 102
    assert dataclasses.replace(request, max_cost_nano_usd=5).most_units.milliseconds == 11_500


@pytest.mark.parametrize("path", ["/audio/transcriptions", "/audio/translations"])
def test_only_translations_are_missing_at_many_providers(path: str):
    """That they are says nothing of a model that transcribes."""
    file = FormFile(field="file", name="a.wav", content_type="audio/wav", data=b"RIFF")
    call = transcriptions.prepare(path, [], file, ROUTE, request_id="r", stream=False)
    assert call.is_rare is (path == transcriptions.TRANSLATIONS)
