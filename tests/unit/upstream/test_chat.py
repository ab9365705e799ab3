"""Chat calls and whole answers: what the provider is sent, and what is read from what it answers."""

import json

import msgspec
import pytest

from chassis.errors import Code, TollbridgeError
from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens
from upstream.client import Timeouts
from upstream.openai.chat import decode_fields, prepare, read_answer
from upstream.openai.costly import COSTLY_FIELDS, refuse_costly
from upstream.openai.images import read_answer as read_images
from upstream.outcome import AttemptFailed, Outcome
from upstream.route import Bounds, Route, WireProtocol
from upstream.usage import UsageLimits

SECRET = "sk-canary-0123456789"


def route(**changes: object) -> Route:
    fields: dict[str, object] = {
        "attempt_id": "a",
        "model": "public",
        "provider_id": "p",
        "provider_account_id": "p-1",
        "protocol": WireProtocol.OPENAI,
        "base_url": "http://127.0.0.1:1/v1",
        "credential": SECRET,
        "provider_model": "theirs",
        "timeouts": Timeouts(connect_s=1, first_byte_s=1, idle_s=1, total_s=1),
        "price": PriceVersion(rates=Rates(), cost=Rates()),
        "bounds": Bounds(),
    }
    return Route(**{**fields, **changes})  # type: ignore[arg-type]  # fields of many types


def test_call_passes_everything_on_but_what_is_ours() -> None:
    """Model, limit and stream options are ours; every other field reaches the provider byte for byte."""
    body = b'{"model":"public","max_tokens":9,"messages":[{"role":"user","content":"h\\u00e9 "}],"novel":1.50,"n":2}'
    call = prepare(decode_fields(body), route(), max_tokens=5, stream=True, request_id="r-1")
    assert call.url == "http://127.0.0.1:1/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {SECRET}"
    assert call.headers["x-request-id"] == "r-1"
    sent = json.loads(call.body)
    assert sent["model"] == "theirs"
    assert sent["max_tokens"] == 5
    assert sent["stream_options"] == {"include_usage": True}
    assert b'"messages":[{"role":"user","content":"h\\u00e9 "}]' in call.body
    assert b'"novel":1.50' in call.body


def test_limit_goes_into_the_routes_field() -> None:
    """Whatever the client called it, the provider gets one limit under the name it knows."""
    body = {"max_tokens": 9, "max_completion_tokens": 8, "stream_options": {"x": 1}, "stream": True}
    call = prepare(body, route(max_tokens_field="max_completion_tokens"), max_tokens=5, stream=False, request_id="r")
    assert json.loads(call.body) == {"model": "theirs", "max_completion_tokens": 5}


def test_no_secret_in_repr() -> None:
    """Neither a route nor a call shows its credential."""
    call = prepare({}, route(), max_tokens=1, stream=False, request_id="r")
    assert SECRET not in repr(call) + repr(route())


def answer(**fields: object) -> bytes:
    message = {"role": "assistant", "content": "Hi", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "cost": 0.5}
    return json.dumps({"id": "gen", "model": "theirs", "choices": choices, "usage": usage, **fields}).encode()


def test_whole_answer() -> None:
    """Usage, ids and text are read; the body for the client has our model id and our cost."""
    read = read_answer(answer(novel=[1]), model="public")
    assert read.captured.tokens == Tokens(input=5, output=2)
    assert read.captured.reported_cost_nano_usd == 500_000_000
    assert (read.captured.generation_id, read.captured.finish_reason) == ("gen", "tool_calls")
    assert read.text() == "Hif{}"
    body = read.render(tokens=Tokens(input=5, output=2), cost="0.0000098")
    assert b'"cost":0.0000098' in body
    shown = msgspec.json.decode(body)
    assert (shown["model"], shown["novel"], shown["usage"]["total_tokens"]) == ("public", [1], 7)


@pytest.mark.parametrize(
    ("message", "said", "shown"),
    [
        (
            {"tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            "stop",
            "tool_calls",
        ),
        (
            {"tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}]},
            "length",
            "length",
        ),
        ({"content": "Hi", "tool_calls": []}, "stop", "stop"),
        ({"content": "Hi", "tool_calls": None}, "stop", "stop"),
    ],
    ids=["calls", "calls that were cut", "no calls in a list", "no calls"],
)
def test_a_whole_answer_with_calls_finishes_with_them(message: dict[str, object], said: str, shown: str) -> None:
    """Agents run tools when the finish says so; some providers finish with `stop`, as in streams, which are mended."""
    choices = [{"index": 0, "message": message, "finish_reason": said, "novel": 2**70}]
    read = read_answer(answer(choices=choices), model="public")
    assert read.captured.finish_reason == shown
    told = json.loads(read.render(tokens=Tokens(), cost=None))["choices"]
    assert told == [{**choices[0], "finish_reason": shown}]


def test_whole_answer_beyond_its_bounds_is_flagged() -> None:
    """Usage that can't be is not charged."""
    read = read_answer(answer(), model="public", limits=UsageLimits(max_input=4, max_output=10))
    assert read.captured.tokens is None
    assert read.captured.implausible


def test_whole_answer_without_usage_shows_what_was_counted() -> None:
    """`usage: null` is no usage, and the client still gets the counts that are charged."""
    read = read_answer(answer(usage=None), model="public")
    assert read.captured.tokens is None
    assert not read.captured.implausible
    shown = msgspec.json.decode(read.render(tokens=Tokens(input=3, cached_input=1, output=1), cost=None))
    assert shown["usage"]["prompt_tokens"] == 4
    assert "cost" not in shown["usage"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"<html>", b'{"choices":[]}', b'{"choices":{"a":1}}', b'{"choices":[1]}', b"\xff"]
)
def test_no_answer_is_a_failure(body: bytes) -> None:
    """A success without an answer is the provider's failure."""
    with pytest.raises(AttemptFailed) as failed:
        read_answer(body, model="public")
    assert failed.value.outcome is Outcome.SERVER_ERROR


def test_error_with_status_200() -> None:
    """An error dressed as a success counts as what its code says."""
    with pytest.raises(AttemptFailed) as failed:
        read_answer(b'{"error":{"message":"slow down","code":429}}', model="public")
    assert failed.value.outcome is Outcome.RATE_LIMITED
    with pytest.raises(AttemptFailed) as failed:
        read_images(b'{"error":{"message":"no such","code":400}}')
    assert (failed.value.outcome, failed.value.message) == (Outcome.REJECTED, "no such")


@pytest.mark.parametrize("name", sorted(COSTLY_FIELDS))
def test_costly_fields_are_refused_by_name(name: str) -> None:
    """Each field of the list is a 400 that names it, raw or plain; null and false are let through."""
    for value in (["x"], {"a": 1}, "y", msgspec.Raw(b'{"a":1}')):
        with pytest.raises(TollbridgeError) as refused:
            refuse_costly({name: value})
        assert refused.value.code is Code.INVALID_REQUEST
        assert refused.value.details == {"param": name}
    refuse_costly({name: None, "other": 1})
    refuse_costly({name: msgspec.Raw(b"null")})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"service_tier": "priority"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": "image"}, "modalities"),
        ({"modalities": [["text"]]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"messages": [{"content": [{"cache_control": {"type": "ephemeral", "ttl": "1h"}}]}]}, "cache_control.ttl"),
        ({"messages": msgspec.Raw(b'[{"cache_control":{"ttl" : "1h"}}]')}, "cache_control.ttl"),
        ({"messages": msgspec.Raw(b'[{"cache_control":{"\\u0074tl":"1h"}}]')}, "cache_control.ttl"),
        ({"messages": msgspec.Raw(b'[{"cache_control":{"ttl":"\\u0031h"}}]')}, "cache_control.ttl"),
        ({"messages": msgspec.Raw(b'[{"cache_contro\\u006c":{"ttl":"1h"}}]')}, "cache_control.ttl"),
        ({"tools": msgspec.Raw(b'[{"type":"function","cache_control":{"ttl":"1h"}}]')}, "cache_control.ttl"),
        ({"cache_control": msgspec.Raw(b'{"type":"ephemeral","ttl":"1h"}')}, "cache_control.ttl"),
        ({"messages": msgspec.Raw(b'[{"content":[{"type":"input_audi\\u006F"}]}]')}, "input_audio"),
        ({"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": "A"}}]}]}, "input_audio"),
    ],
)
def test_costly_values_are_refused(body: dict[str, object], param: str) -> None:
    """Fields that cost money with some values only are refused with those."""
    with pytest.raises(TollbridgeError) as refused:
        refuse_costly(body)
    assert refused.value.details == {"param": param}


def test_what_is_priced_is_let_through() -> None:
    """A model that prices audio or the hour's cache offers them; plain tools and tiers are always fine."""
    rates = Rates(audio_input=1, audio_output=1, cache_write_1h=1)
    cached = [{"content": [{"cache_control": {"ttl": "1h"}}, {"type": "input_audio"}]}]
    refuse_costly({"modalities": ["audio"], "audio": {"voice": "x"}, "messages": cached}, rates=rates)
    refuse_costly({"service_tier": "auto", "tools": [{"type": "function"}], "modalities": ["text"]})
    talk = [{"content": 'a "ttl": "1h" in a cache_control, input_audio, \u00fc', "cache_control": {"ttl": "5m"}}]
    refuse_costly({"messages": msgspec.Raw(msgspec.json.encode(talk))})
