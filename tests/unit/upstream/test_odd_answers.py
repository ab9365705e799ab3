"""Providers that say half of what they mean: a zero has to be said, and an answer that is an error is no answer."""

import json
from typing import Any

import pytest

from pricing.tokens import Tokens
from upstream.anthropic.messages import MessagesReader, read_message
from upstream.openai.chat import read_answer
from upstream.openai.chat_stream import ChatStream
from upstream.openai.images import read_answer as read_images
from upstream.openai.usage_block import UsageBlock
from upstream.outcome import AttemptFailed
from upstream.usage import Captured

SAID = {"prompt_tokens": 40, "completion_tokens": 30}
HALVES: dict[str, dict[str, Any]] = {
    "both null": {"prompt_tokens": None, "completion_tokens": None},
    "no prompt": {"completion_tokens": 30},
    "prompt null": {"prompt_tokens": None, "completion_tokens": 30},
    "no completion": {"prompt_tokens": 40},
    "a total only": {"total_tokens": 70},
}


@pytest.mark.parametrize("kind", HALVES)
def test_a_zero_has_to_be_said(kind: str) -> None:
    """Usage without one of its two totals is none: it will be counted, not given away."""
    block = UsageBlock(None)
    block.read(json.dumps(HALVES[kind]).encode())
    assert (block.tokens, block.implausible) == (None, False)


@pytest.mark.parametrize("later", ["null", "{}", '{"prompt_tokens": null, "completion_tokens": null}'])
def test_usage_without_counts_takes_nothing_back(later: str) -> None:
    """What was said before stands."""
    block = UsageBlock(None)
    block.read(json.dumps(SAID).encode())
    block.read(later.encode())
    assert block.tokens == Tokens(input=40, output=30)


@pytest.mark.parametrize(
    "broken",
    [
        {"error": {"message": "broke"}, "choices": [{"index": 0, "message": {"content": ""}, "finish_reason": None}]},
        {"choices": [{"index": 0, "message": {"content": "hal"}, "finish_reason": "error"}]},
        {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "error", "error": {"code": 502}}]},
    ],
)
def test_a_whole_answer_that_calls_itself_an_error_is_none(broken: dict[str, Any]) -> None:
    """Whatever else stands in it: its client pays for finished answers only."""
    with pytest.raises(AttemptFailed):
        read_answer(json.dumps({"id": "x", "usage": SAID, **broken}).encode(), model="public")


def streamed(*events: str | dict[str, Any]) -> Captured:
    reader = ChatStream(model="public", include_usage=False)
    for event in events:
        reader.feed(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())
    return reader.finish()


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "x",
        "model": "theirs",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }


def test_a_stream_that_finishes_as_error_is_broken() -> None:
    """Its usage says nothing, since nothing was finished."""
    captured = streamed(piece("hal"), piece("", "error"), {"choices": [], "usage": SAID}, "[DONE]")
    assert (captured.complete, captured.tokens) == (False, None)
    assert captured.error is not None


def test_what_can_not_be_read_behind_the_finish_loses_at_most_the_usage() -> None:
    """The answer is whole, and in one read it is as good as in several."""
    captured = streamed(piece("whole"), piece("", "stop"), '{"choices": [], "usage": {"cost": NaN}}', "[DONE]")
    assert (captured.complete, captured.tokens) == (True, None)


def test_usage_beside_choices_that_are_null_counts() -> None:
    """An empty list by another name."""
    captured = streamed(piece("whole"), piece("", "stop"), {"choices": None, "usage": SAID}, "[DONE]")
    assert captured.tokens == Tokens(input=40, output=30)


def messages(start: object, last: object) -> Captured:
    reader = MessagesReader()
    message = {"id": "x", "type": "message", "content": [], "usage": start}
    events = [
        {"type": "message_start", "message": message},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": last},
        {"type": "message_stop"},
    ]
    for event in events:
        reader.feed(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return reader.captured()


@pytest.mark.parametrize(
    ("start", "last"),
    [
        ({"input_tokens": 40, "output_tokens": 1}, {"output_tokens": None}),
        ({"input_tokens": 40, "output_tokens": 1}, [30]),
        ({"input_tokens": 40, "output_tokens": 1}, "30"),
        ({"input_tokens": None}, {"output_tokens": 30}),
        (None, {"output_tokens": 30}),
    ],
)
def test_messages_whose_usage_leaves_something_out_are_counted(start: object, last: object) -> None:
    """The output that the start names is a beginning; input that nobody names is not nothing."""
    captured = messages(start, last)
    assert captured.complete
    assert captured.tokens is None


@pytest.mark.parametrize("usage", [5, [], {"output_tokens": 30}, {"input_tokens": 40, "output_tokens": None}])
def test_a_whole_message_with_half_a_usage_is_counted(usage: object) -> None:
    """It is an answer all the same."""
    content = [{"type": "text", "text": "hi"}]
    body = {"id": "x", "type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}
    message, captured, _ = read_message(json.dumps(body).encode())
    assert (message.content[0].text, captured.complete, captured.tokens) == ("hi", True, None)


@pytest.mark.parametrize("usage", [5, {"input_tokens": None, "output_tokens": None}, {"input_tokens": 10}])
def test_images_with_half_a_usage_are_images_all_the_same(usage: object) -> None:
    """They are there, and nothing else is said about them."""
    answer = read_images(json.dumps({"data": [{"b64_json": "iVBORw0KGgo="}], "usage": usage}).encode())
    assert (len(answer.images), answer.captured.tokens) == (1, None)
