"""Transcripts as providers answer them: what of their usage counts, whole or streamed, whatever the price goes by."""

import json
import time

import msgspec
import pytest

from pricing.charge import charge_nano_usd
from pricing.prices import PriceVersion, Rates
from services.edge.translate import subtitles
from tests.unit.edge.sound import wav
from upstream.openai.transcript_stream import TranscriptStream
from upstream.openai.transcriptions import read_answer
from upstream.outcome import ProviderMisbehaved
from upstream.sounds import Duration, duration_of
from upstream.sse import MAX_EVENT_BYTES
from upstream.usage import Captured, UsageLimits

SOUND = duration_of(wav(10))
LIMITS = UsageLimits(max_input=600, max_output=100)
MINUTE = Rates(per_minute=6_000_000)
TOKEN = Rates(input=2_500_000_000, audio_input=6_000_000_000, output=10_000_000_000)
REQUEST = Rates(per_request=30_000_000)
SECONDS = {"type": "duration", "seconds": 12}
TOKENS = {"type": "tokens", "input_tokens": 104, "input_token_details": {"audio_tokens": 100}, "output_tokens": 5}
COUNTED_MINUTE = 1_000_000
"""Ten seconds, as the file has them."""


def whole(usage: object, rates: Rates, **fields: object) -> Captured:
    """What a whole answer says."""
    body = json.dumps({"text": "hi", "usage": usage, **fields}).encode()
    return read_answer(body, rates=rates, duration=SOUND, limits=LIMITS).usage.captured(complete=True)


def streamed(usage: object, rates: Rates, **fields: object) -> Captured:
    """What a stream says."""
    reader = TranscriptStream(rates=rates, duration=SOUND, limits=LIMITS)
    reader.feed(b'data: {"type": "transcript.text.delta", "delta": "hi"}\n\n')
    done = {"type": "transcript.text.done", "text": "hi", "usage": usage, **fields}
    reader.feed(b"data: " + json.dumps(done).encode() + b"\n\n")
    return reader.finish()


@pytest.mark.parametrize("read", [whole, streamed])
@pytest.mark.parametrize(
    ("rates", "usage", "charge"),
    [
        (MINUTE, SECONDS, 1_200_000),
        (MINUTE, {"type": "duration", "seconds": 0}, 0),
        (MINUTE, TOKENS, COUNTED_MINUTE),
        (MINUTE, None, COUNTED_MINUTE),
        (TOKEN, TOKENS, 4 * 2500 + 100 * 6000 + 5 * 10000),
        (REQUEST, SECONDS, 30_000_000),
        (REQUEST, TOKENS, 30_000_000),
        (REQUEST, None, 30_000_000),
        (Rates(), None, 0),
    ],
)
def test_what_the_price_goes_by_is_charged(*, read, rates: Rates, usage: object, charge: int):
    """Whatever else was reported. What had to be counted says so, and nothing is flagged."""
    found = read(usage, rates)
    price = PriceVersion(rates=rates, cost=rates)
    counts = (rates is MINUTE and usage is not SECONDS and usage in (None, TOKENS)) or (
        rates is TOKEN and usage is None
    )
    assert (found.tokens is None, found.implausible) == (counts, False)
    if found.tokens is not None:
        assert charge_nano_usd(found.tokens, found.units, price) == charge
    else:
        assert found.units.milliseconds * 6_000_000 // 60_000 == charge


@pytest.mark.parametrize("read", [whole, streamed])
@pytest.mark.parametrize(
    "usage",
    [
        {"type": "duration", "seconds": -1},
        {"type": "duration", "seconds": 61.1},
        {"type": "duration", "seconds": "12"},
        {"type": "duration", "seconds": True},
        {"type": "tokens", "input_tokens": -1, "output_tokens": 1},
        {"type": "tokens", "input_tokens": 601, "output_tokens": 1},
        {"type": "tokens", "input_tokens": 6, "output_tokens": 101},
        {"type": "tokens", "input_tokens": 6, "output_tokens": 1.5},
        {"type": "tokens", "input_tokens": 6, "output_tokens": 1, "input_token_details": {"audio_tokens": 7}},
        {"cost": -1},
        {"cost": "NaN"},
        [],
        7,
    ],
    ids=str,
)
def test_usage_that_cannot_be_is_flagged_and_replaced(read, usage: object):
    """By the length that the file has."""
    found = read(usage, MINUTE)
    assert (found.implausible, found.units.milliseconds, found.reported_cost_nano_usd) == (True, 10_000, None)


@pytest.mark.parametrize("read", [whole, streamed])
def test_one_count_that_cannot_be_takes_nothing_from_the_others(read):
    """A cost, or a length beside the tokens: the rest is as good as before."""
    for rates, usage in ((MINUTE, {**SECONDS, "cost": -1}), (TOKEN, {**TOKENS, "cost": "x"})):
        found = read(usage, rates)
        assert (found.tokens is not None, found.implausible) == (True, True)
    found = read(TOKENS, TOKEN, duration=1e9)
    assert found.tokens is not None
    assert (found.tokens.audio_input, found.implausible) == (100, True)


@pytest.mark.parametrize("number", [b"1e900000", b"1e999999999", b"-1e400", b'"NaN"', b'"Infinity"'])
def test_an_absurd_length_takes_no_time(number: bytes):
    """A number may have more digits than there is time to write them."""
    started_s = time.process_time()
    body = b'{"text": "hi", "duration": %s}' % number
    assert read_answer(body, rates=MINUTE, duration=SOUND).usage.captured(complete=True).implausible
    assert time.process_time() - started_s < 1


def test_who_says_much_was_not_heard_in_no_time():
    """A head that lies, and a provider that reports nothing: the text tells, within what was held."""
    lied = Duration(likely_ms=10, held_ms=60_000, most_ms=1_000_000)
    for characters, ms in ((2, 50), (4000, 60_000), (400, 10_000)):
        body = json.dumps({"text": "x" * characters}).encode()
        found = read_answer(body, rates=MINUTE, duration=lied).usage.captured(complete=True)
        assert found.units.milliseconds == ms


def test_the_cost_of_the_house_is_not_shown():
    """Whatever names the provider has for it."""
    usage = {**SECONDS, "cost": 1, "cost_details": {"upstream": 1}, "is_byok": False, "estimated_cost": 1}
    found = read_answer(json.dumps({"text": "hi", "usage": usage}).encode(), rates=MINUTE, duration=SOUND)
    captured = found.usage.captured(complete=True)
    shown = json.loads(found.render(tokens=captured.tokens, cost="0.5"))["usage"]
    assert shown == {**SECONDS, "cost": 0.5}


def events(data: bytes) -> list[dict]:
    """A stream's events."""
    return [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: ")]


def test_segments_of_speakers_are_handed_on_as_they_come():
    """They are the answer, where there are no deltas; nobody waits for its end."""
    reader = TranscriptStream(rates=MINUTE, duration=SOUND, limits=LIMITS)
    segment = {"type": "transcript.text.segment", "id": "1", "speaker": "A", "start": 0, "end": 1, "text": "hi"}
    assert events(reader.feed(b"data: " + json.dumps(segment).encode() + b"\n\n")) == [segment]
    assert reader.has_content
    assert reader.delivered_text() == "hi"


def test_a_whole_answer_in_place_of_a_stream_is_read_once():
    """However small the pieces are that it comes in."""
    reader = TranscriptStream(rates=MINUTE, duration=SOUND, limits=LIMITS)
    body = json.dumps({"text": "x}" * 100_000, "usage": SECONDS}).encode()
    started_s = time.process_time()
    for at in range(0, len(body), 20):
        assert reader.feed(body[at : at + 20]) == b""
        assert not reader.ended
    captured = reader.finish()
    assert time.process_time() - started_s < 2
    assert (captured.complete, captured.units.milliseconds, reader.ended) == (True, 12_000, True)
    delta, done = events(reader.closing(tokens=captured.tokens, cost="1"))
    assert (delta["delta"], done["text"], done["usage"]["cost"]) == ("x}" * 100_000, "x}" * 100_000, 1)


def test_half_a_whole_answer_is_none():
    """And one without an end has bounds."""
    reader = TranscriptStream(rates=MINUTE, duration=SOUND)
    reader.feed(b'{"text": "a')
    assert not reader.finish().complete
    with pytest.raises(ProviderMisbehaved):
        reader.feed(b"x" * MAX_EVENT_BYTES)


def test_an_error_in_place_of_a_stream_is_one():
    """With the status that it names."""
    reader = TranscriptStream(rates=MINUTE, duration=SOUND)
    reader.feed(b'{"error": {"message": "no", "code": 429}}')
    found = reader.finish()
    assert (found.complete, found.error, found.error_status) == (False, "no", 429)


@pytest.mark.parametrize("seconds", ["1e308", "-1e308", "1e400", "99999999999999999999999"])
def test_no_time_is_too_absurd_for_subtitles(seconds: str):
    """What the provider says of its segments can't break an answer that is paid for."""
    fields = {"segments": msgspec.Raw(b'[{"start": 0, "end": %s, "text": "hi"}]' % seconds.encode())}
    found = subtitles.segments_of(fields, text="hi", duration_ms=10_000)
    assert subtitles.srt(found).startswith("1\n00:00:00,000 --> ")
    assert "hi" in subtitles.vtt(found)
