"""Long texts: cut after sentences, spoken in pieces, joined to one file that plays."""

import json
from typing import Any

import pytest

from chassis.errors import Code, TollbridgeError
from pricing.prices import PriceVersion, Rates
from services.tasks.making import kinds, speech_maker, speech_order
from services.tasks.making.kind import Making, Product, Providers
from services.tasks.making.sentences import pieces_of
from tests.fakes.listener import heard, said
from tests.fakes.routes import route_to
from upstream import sound_encoder
from upstream.client import HttpCall, Timeouts, UpstreamClient, UpstreamResponse
from upstream.outcome import AnswerTooLarge, AttemptFailed, Outcome
from upstream.route import WireProtocol
from upstream.sandbox.provider import Sandbox
from upstream.sandbox.speech import MS_PER_CHARACTER
from upstream.sound_encoder import CONTENT_TYPES, encoded, plain_samples

SENTENCE = "This is a sentence of fifty-two characters and a dot. "
LONG = SENTENCE * 80
BY_CHARACTER = Rates(per_million_characters=15_000_000_000)
BY_TOKEN = Rates(input=600_000_000, audio_output=12_000_000_000)


@pytest.mark.parametrize(
    "text",
    [LONG, "word " * 3000, "x" * 9000, "短い文。" * 3000, LONG + " " * 6000, "a\n" * 5000, SENTENCE, "  \n" * 4000],
)
def test_pieces_are_the_text_and_none_is_too_long(text: str):
    """But for blanks at the end of one, which nobody speaks."""
    pieces = pieces_of(text, most=4096)
    assert "".join(pieces) == text
    assert all(len(piece.rstrip()) <= 4096 for piece in pieces)
    assert all(piece.strip() for piece in pieces) or not text.strip()


def test_a_cut_is_after_a_sentence_or_else_after_a_word():
    """Where a speaker would draw breath."""
    assert pieces_of("One two. Three four. Five", most=15) == ["One two. ", "Three four. ", "Five"]
    assert pieces_of('He said "No!" Then he left.', most=16) == ['He said "No!" ', "Then he left."]
    assert pieces_of("one two three", most=9) == ["one two ", "three"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n "}, "input"),
        ({"input": "x" * 70_000}, "input"),
        ({"input": 5}, "input"),
        ({"speed": 5}, "speed"),
        ({"response_format": "midi"}, "response_format"),
        ({"response_format": "wav", "input": "x" * 60_000}, "response_format"),
        ({"stream_format": "sse"}, "stream_format"),
    ],
)
def test_what_can_not_be_spoken_is_refused_by_its_field(*, fields: dict, param: str):
    """Before anything is held for it."""
    with pytest.raises(TollbridgeError) as refused:
        speech_order.parse(json.dumps({"input": "Hi", **fields}).encode())
    assert (refused.value.code, refused.value.details["param"]) == (Code.INVALID_REQUEST, param)


def test_pieces_that_this_machine_can_not_join_are_refused_by_their_format(monkeypatch: pytest.MonkeyPatch):
    """AAC without ffmpeg; a short text is the provider's to make."""
    monkeypatch.setattr(sound_encoder, "ffmpeg_path", lambda: None)
    with pytest.raises(TollbridgeError) as refused:
        speech_order.parse(json.dumps({"input": LONG, "response_format": "aac"}).encode())
    assert (refused.value.code, refused.value.details["param"]) == (Code.INVALID_REQUEST, "response_format")
    assert speech_order.parse(json.dumps({"input": "Hi", "response_format": "aac"}).encode()).spoken.wanted == "aac"


async def made(client: UpstreamClient, *, rates: Rates = BY_CHARACTER, **fields: Any) -> tuple[Product, list[float]]:
    """What the sandbox makes of it, and the progress on the way."""
    progress = list[float]()
    route = route_to(protocol=WireProtocol.SANDBOX, price=PriceVersion(rates=rates, cost=rates))
    making: Making[Any] = Making(
        task_id="t",
        wanted=kinds.SPEECH.parse(json.dumps(fields).encode()),
        route=route,
        providers=Providers(client=client, sandbox=Sandbox()),
        submitted=lambda _: pytest.fail("nothing is submitted"),
        progress=progress.append,
        idempotency_key="t-0",
    )
    return await kinds.SPEECH.maker_of(route).make(making), progress


@pytest.mark.parametrize("wanted", ["mp3", "opus", "wav"])
async def test_the_pieces_of_a_long_text_are_one_file(*, client: UpstreamClient, wanted: str):
    """Of the right container and length, every character of it charged."""
    product, progress = await made(client, input=LONG, response_format=wanted, speed=4)
    container, played = heard(product.files[0].data)
    assert container == wanted
    assert said(product.files[0].data) == pytest.approx(played, rel=0.05)
    assert played == pytest.approx(len(LONG) * MS_PER_CHARACTER / 4 / 1000, rel=0.01)
    assert product.files[0].content_type == CONTENT_TYPES[wanted]
    assert product.units.characters == len(LONG)
    assert product.units.milliseconds == pytest.approx(played * 1000, rel=0.01)
    assert len(progress) == 2
    assert sorted(progress) == progress


async def test_a_short_text_is_one_call(client: UpstreamClient):
    """In the provider's own file, its tokens as reported."""
    directive = '#sandbox {"prompt_tokens": 7, "output_tokens": 70}'
    product, _ = await made(client, rates=BY_TOKEN, input=f"Hi.\n{directive}", response_format="flac")
    tokens = product.captured.tokens
    assert tokens is not None
    assert (tokens.input, tokens.audio_output, product.is_counted) == (7, 70, False)
    assert heard(product.files[0].data)[0] == "flac"


async def test_tokens_that_nobody_reports_are_counted(client: UpstreamClient):
    """And said to be."""
    product, _ = await made(client, rates=BY_TOKEN, input='Hi there.\n#sandbox {"usage": false}')
    tokens = product.captured.tokens
    assert tokens is not None
    assert tokens.input > 2
    assert tokens.audio_output == -(-product.units.milliseconds * 21 // 1000)
    assert product.is_counted


async def test_a_piece_that_breaks_off_is_no_file(client: UpstreamClient):
    """However much of it came."""
    with pytest.raises(AttemptFailed):
        await made(client, input='Hi.\n#sandbox {"chunks": 4, "fail_after_chunks": 2}')


async def test_what_a_dead_worker_had_spoken_is_the_same_order_again(
    client: UpstreamClient, monkeypatch: pytest.MonkeyPatch
):
    """Each piece is an order of its own, by a key that follows from the task's: who heeds it is paid once."""
    keys: list[str] = []
    send = Sandbox.send

    async def noted_send(self: Sandbox, call: HttpCall, *, timeouts: Timeouts) -> UpstreamResponse:
        keys.append(call.headers["idempotency-key"])
        return await send(self, call, timeouts=timeouts)

    monkeypatch.setattr(Sandbox, "send", noted_send)
    await made(client, input="Hi there.")
    assert keys == ["t-0"]
    keys.clear()
    for _ in range(2):
        await made(client, input=LONG, speed=4)
    first, second = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    assert first == second
    assert len(set(first)) == len(first) > 1


async def test_a_provider_that_is_busy_in_the_middle_is_waited_for(
    client: UpstreamClient, monkeypatch: pytest.MonkeyPatch
):
    """What it has spoken by then is not ordered again; one that is busy at the beginning is left for another."""
    monkeypatch.setattr(speech_maker, "PAUSES_S", (0.0, 0.0, 0.0))
    keys: list[str] = []
    busy: set[int] = {1, 2}
    send = Sandbox.send

    async def busy_send(self: Sandbox, call: HttpCall, *, timeouts: Timeouts) -> UpstreamResponse:
        keys.append(call.headers["idempotency-key"])
        if len(keys) - 1 in busy:
            raise AttemptFailed(Outcome.RATE_LIMITED, "busy", status=429)
        return await send(self, call, timeouts=timeouts)

    monkeypatch.setattr(Sandbox, "send", busy_send)
    product, _ = await made(client, input=LONG, speed=4)
    assert keys == ["t-0-1", "t-0-2", "t-0-2", "t-0-2"]
    assert product.units.characters == len(LONG)
    for busy_at in ({4}, {6, 7, 8, 9}):  # at the beginning; for too long
        busy |= busy_at
        with pytest.raises(AttemptFailed):
            await made(client, input=LONG, speed=4)
    assert len(keys) == 10


@pytest.mark.parametrize("text", ["Hi there.", LONG])
async def test_a_sound_that_is_too_large_to_be_kept_says_so(
    client: UpstreamClient, monkeypatch: pytest.MonkeyPatch, text: str
):
    """It was made, so it is not asked for again."""
    monkeypatch.setattr(speech_maker, "MAX_FILE_BYTES", 1000)
    with pytest.raises(AnswerTooLarge):
        await made(client, input=text, response_format="mp3")


def test_samples_are_found_in_files_too():
    """Some providers send nothing else."""
    samples = bytes(range(256)) * 100
    assert plain_samples(samples + b"\0") == samples
    assert plain_samples(encoded(samples, "wav")) == samples
    assert plain_samples(encoded(samples, "flac")) == samples
