"""Anthropic's Messages relayed as they came: what is changed, what is held back, and what never comes through."""

import json
from typing import Any

import pytest

from pricing.tokens import Tokens
from upstream.anthropic.native import MessagesRelay, read_answer, read_count
from upstream.outcome import AttemptFailed, ProviderMisbehaved
from upstream.usage import UsageLimits

USAGE = {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 7, "service_tier": "standard", "cost": 0.9}
SPENT = Tokens(input=5, cached_input=3, output=7)
MESSAGE: dict[str, Any] = {"id": "msg_1", "type": "message", "model": "theirs", "content": [], "usage": USAGE}
START = {"type": "message_start", "message": MESSAGE}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def last(stop: dict[str, Any], usage: object = None, **more: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": stop, **({} if usage is None else {"usage": usage}), **more}


def told(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: ")]


def test_what_is_plain_is_relayed_byte_for_byte() -> None:
    """Deltas, blocks, pings and types that nobody knows, their spaces and escapes too."""
    relay = MessagesRelay(model="public")
    relay.feed(sse(START))
    plain = (
        b'event: content_block_start\ndata: { "type":"content_block_start","index":0,"content_block":{"type":"x"} }\n\n'
    )
    plain += b'event: ping\ndata: {"type": "ping"}\n\n'
    plain += b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"citations_delta"}}\n\n'
    plain += b'event: novel\ndata: {"type":"novel","text":"\\u00fc","n":1.50}\n\n'
    assert relay.feed(plain) == plain


def test_the_start_has_the_public_model_and_no_cost_of_the_providers() -> None:
    """All else in it stays."""
    relay = MessagesRelay(model="public")
    (start,) = told(relay.feed(sse({**START, "novel": 1})))
    usage = {name: count for name, count in USAGE.items() if name != "cost"} | {"cache_creation_input_tokens": 0}
    assert start == {"type": "message_start", "novel": 1, "message": {**MESSAGE, "model": "public", "usage": usage}}
    assert not relay.has_content


def test_an_end_in_several_parts_is_one() -> None:
    """What the parts say adds up, and the usage carries our cost."""
    relay = MessagesRelay(model="public")
    relay.feed(sse(START, BLOCK, DELTA, {"type": "content_block_stop", "index": 0}))
    first = last({"stop_reason": "stop_sequence", "stop_sequence": "END"}, {"output_tokens": 4}, context_management={})
    second = last({"stop_reason": None, "stop_sequence": None}, {"output_tokens": 7})
    assert relay.feed(sse(first, second, {"type": "message_stop"})) == b""
    captured = relay.finish()
    assert (captured.complete, captured.tokens) == (True, SPENT)
    end, stop = told(relay.closing(tokens=SPENT, cost="0.0000098"))
    assert (end["delta"], end["context_management"]) == ({"stop_reason": "stop_sequence", "stop_sequence": "END"}, {})
    assert (end["usage"]["output_tokens"], end["usage"]["cost"]) == (7, 0.0000098)
    assert stop == {"type": "message_stop"}


def test_counts_of_ours_replace_what_cannot_be() -> None:
    """The client sees what it is charged for."""
    relay = MessagesRelay(model="public", limits=UsageLimits(max_input=100, max_output=6))
    relay.feed(sse(START, BLOCK, DELTA, last({"stop_reason": "end_turn"}, USAGE), {"type": "message_stop"}))
    captured = relay.finish()
    assert (captured.tokens, captured.implausible) == (None, True)
    usage = told(relay.closing(tokens=Tokens(input=4, output=1), cost="1"))[-2]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["cost"]) == (4, 1, 1)


@pytest.mark.parametrize(("cost", "nano_usd"), [(0.0012, 1_200_000), ("0.5", 500_000_000), (-1, None), ("x", None)])
def test_a_cost_that_the_provider_reports_is_read(cost: object, nano_usd: int | None) -> None:
    """Exactly, whole and streamed; one that can't be is flagged."""
    usage = {**USAGE, "cost": cost}
    relay = MessagesRelay(model="public")
    relay.feed(sse(START, last({"stop_reason": "end_turn"}, usage), {"type": "message_stop"}))
    whole = read_answer(json.dumps({**MESSAGE, "usage": usage}).encode(), model="public")
    for captured in (relay.finish(), whole.captured):
        assert (captured.tokens, captured.reported_cost_nano_usd) == (SPENT, nano_usd)
        assert captured.implausible == (nano_usd is None)


@pytest.mark.parametrize(("cut", "reason"), [(True, "max_tokens"), (False, "end_turn")])
def test_a_stream_without_its_end_gets_one(cut: bool, reason: str) -> None:
    """Open blocks are closed; a cut at the total time looks like a limit."""
    relay = MessagesRelay(model="public")
    relay.feed(sse(START, BLOCK, DELTA))
    stop, end, _ = told(relay.closing(tokens=SPENT, cost=None, cut=cut))
    assert stop == {"type": "content_block_stop", "index": 0}
    assert end["delta"]["stop_reason"] == reason
    assert relay.delivered_text() == "Hi"


def test_an_error_is_captured_and_nothing_follows_it() -> None:
    """Edge says it in its own words."""
    relay = MessagesRelay(model="public")
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    out = relay.feed(sse(START, BLOCK, DELTA, error, DELTA))
    assert [event["type"] for event in told(out)] == ["message_start", "content_block_start", "content_block_delta"]
    captured = relay.finish()
    assert (captured.error, captured.error_status, captured.complete) == ("Overloaded", 529, False)


@pytest.mark.parametrize("data", [b'{"error":{"message":"No"}}', b'{"type":"x","error":{"message":"No"}}'])
def test_an_event_named_error_is_one(data: bytes) -> None:
    """Whatever its data looks like."""
    relay = MessagesRelay(model="public")
    assert relay.feed(b"event: error\ndata: " + data + b"\n\n") == b""
    assert (relay.ended, relay.finish().error) == (True, "No")


def test_who_has_left_got_no_more() -> None:
    """What is read on is not delivered."""
    relay = MessagesRelay(model="public")
    relay.feed(sse(START, BLOCK, DELTA))
    relay.stop_delivery()
    relay.feed(sse(DELTA))
    assert relay.delivered_text() == "Hi"


def test_names_and_lines_cannot_be_forged() -> None:
    """An event's name comes from its type, in one line; a type that is no name is dropped."""
    relay = MessagesRelay(model="public")
    assert relay.feed(b'event: message_stop\ndata: {"type":"ping"}\n\n') == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert relay.feed(b'data: {"type":\ndata: "ping"}\n\n') == b'event: ping\ndata: {"type": "ping"}\n\n'
    assert relay.feed(b'data: {"type":"x\\ndata: y"}\n\ndata: {}\n\n: comment\n\n') == b":\n\n"


@pytest.mark.parametrize(
    "line", [b"data: {\n\n", b"data: 7\n\n", b'data: {"type":"message_delta","delta":7}\n\n', b'data: {"type":7}\n\n']
)
def test_hostile_lines_are_refused(line: bytes) -> None:
    """What is no Messages event raises, whatever it is."""
    with pytest.raises(ProviderMisbehaved):
        MessagesRelay(model="public").feed(line)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"type":"error","error":{"message":"no"}}', b'{"content":7}'])
def test_what_is_no_message_is_the_providers_failure(body: bytes) -> None:
    """Never an exception of ours; so with a count."""
    with pytest.raises(AttemptFailed):
        read_answer(body, model="public")
    with pytest.raises(AttemptFailed):
        read_count(body)


def test_a_whole_answer_keeps_every_field() -> None:
    """But for the model and the usage, which hides the provider's own price."""
    body = {**MESSAGE, "content": [{"type": "novel", "deep": [1.5, None]}], "stop_reason": "end_turn", "novel": "ü"}
    answer = read_answer(json.dumps(body).encode(), model="public")
    shown = json.loads(answer.render(tokens=SPENT, cost="0.5"))
    usage = {**USAGE, "cache_creation_input_tokens": 0, "cost": 0.5}
    assert shown == {**body, "model": "public", "usage": usage}
