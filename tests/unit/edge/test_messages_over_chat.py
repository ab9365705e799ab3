"""Anthropic's Messages over OpenAI chat: answers mean the same, whatever a provider's habits are."""

import json
from typing import Any

import msgspec
import pytest
from anthropic.types import Message

from pricing.tokens import Tokens
from services.edge.translate.messages_over_chat import MessagesOverChat, read_answer
from upstream.outcome import AttemptFailed, ProviderMisbehaved

SPENT = Tokens(input=3, cached_input=4, cache_write=1, output=5, reasoning=2)


def answered(message: dict[str, Any], finish: str = "stop", **choice: Any) -> dict[str, Any]:
    body = {"id": "c1", "choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}]}
    read = read_answer(msgspec.json.encode(body), model="public", stops=["END"])
    shown = read.render(tokens=SPENT, cost="0.0000098")
    Message.model_validate_json(shown, strict=True)
    assert b'"cost":0.0000098' in shown
    made: dict[str, Any] = json.loads(shown)
    return made


def test_a_whole_answer_has_its_blocks_in_order() -> None:
    """Thoughts, text, calls; and the usage as Anthropic counts it, cache reads beside the input."""
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    made = answered({"content": "Hi", "reasoning_content": "hm", "tool_calls": [call]}, "tool_calls")
    assert made["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ]
    assert made["stop_reason"] == "tool_use"
    usage = made["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (3, 4, 1)
    assert (usage["output_tokens"], usage["output_tokens_details"]) == (5, {"thinking_tokens": 2})


@pytest.mark.parametrize(
    ("message", "finish", "more", "expected"),
    [
        ({"content": "x"}, "stop", {}, ("end_turn", None)),
        ({"content": "x"}, "length", {}, ("max_tokens", None)),
        ({"content": "x"}, "content_filter", {}, ("refusal", None)),
        ({"content": None, "refusal": "no"}, "stop", {}, ("refusal", None)),
        ({"content": "x"}, "stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ({"content": "x"}, "stop", {"stop_reason": "other"}, ("end_turn", None)),
        ({"content": "x"}, "novel", {}, ("end_turn", None)),
        ({"tool_calls": [{"function": {"name": "f"}}]}, "stop", {}, ("tool_use", None)),
    ],
)
def test_stop_reasons(message: dict[str, Any], finish: str, more: dict[str, Any], expected: object) -> None:
    """Each finish has its counterpart; a call ends as one, also where the provider does not say so."""
    made = answered(message, finish, **more)
    assert (made["stop_reason"], made["stop_sequence"]) == expected


def test_arguments_that_are_no_object_are_not_lost() -> None:
    """What a limit has cut stands there as the text that it is."""
    call = {"id": "t", "function": {"name": "f", "arguments": '{"a": "cu'}}
    assert answered({"tool_calls": [call]}, "length")["content"][0]["input"] == {"arguments": '{"a": "cu'}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"choices":[]}', b'{"error":{"message":"no"}}'])
def test_what_is_no_answer_is_the_providers_failure(body: bytes) -> None:
    """Never an exception of ours."""
    with pytest.raises(AttemptFailed):
        read_answer(body, model="m", stops=[])


def stream(*deltas: dict[str, Any], finish: str = "tool_calls", mark: bool = True) -> list[dict[str, Any]]:
    reader = MessagesOverChat(model="public", stops=[])
    out = b""
    for delta in deltas:
        out += reader.feed(sse({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
    out += reader.feed(sse({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
    if mark:
        out += reader.feed(b"data: [DONE]\n\n")
    assert reader.finish().complete
    out += reader.closing(tokens=SPENT, cost="1")
    return [json.loads(line[6:]) for line in out.decode().splitlines() if line.startswith("data: ")]


def sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "c1", "model": "theirs", **chunk}).encode() + b"\n\n"


def call(index: int | None, call_id: str = "", name: str = "", arguments: str | None = None) -> dict[str, Any]:
    named = {"id": call_id} if call_id else {}
    function = ({"name": name} if name else {}) | ({} if arguments is None else {"arguments": arguments})
    return {"tool_calls": [{**({} if index is None else {"index": index}), **named, "function": function}]}


def blocks(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Name or type of each block and what its deltas say; blocks must not overlap."""
    found: list[tuple[str, str]] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert (is_open, event["index"]) == (False, len(found))
            block = event["content_block"]
            found.append((block.get("name") or block["type"], ""))
            is_open = True
        elif event["type"] == "content_block_delta":
            assert (is_open, event["index"]) == (True, len(found) - 1)
            name, said = found[-1]
            found[-1] = (name, said + "".join(value for key, value in event["delta"].items() if key != "type"))
        elif event["type"] == "content_block_stop":
            assert event["index"] == len(found) - 1
            is_open = False
    assert not is_open
    return found


@pytest.mark.parametrize(
    "deltas",
    [
        (call(0, "a", "f", '{"x"'), call(0, arguments=":1}"), call(1, "b", "g", "{}")),
        (call(0, "a", "f", ""), call(1, "b", "g", ""), call(0, arguments='{"x":1}'), call(1, arguments="{}")),
        (call(0, "a", "f", '{"x"'), call(1, "b", "g", "{"), call(0, arguments=":1}"), call(1, arguments="}")),
        (call(0, "a", "f", '{"x":1}'), call(0, "b", "g", "{}")),
        (call(None, "a", "f", '{"x"'), call(None, "a", "f", ":1}"), call(None, "b", "g", "{}")),
        (call(None, "a", "f", '{"x"'), call(None, arguments=":1}"), call(None, "b", "g", "{}")),
        (call(0, "a", "", '{"x"'), call(0, "", "f", ":1}"), call(1, "b", "g", "{}")),
        (call(0, "a", "f", '{"x"'), call(0, "z", "", ":1}"), call(1, "b", "g", "{}")),
        (call(0, "a", "f", '{"x"'), call(None, "a", "", ":1}"), call(None, "b", "g", "{}")),
    ],
    ids=[
        "in order",
        "begun at once",
        "mixed",
        "one index",
        "id repeated",
        "no index",
        "name late",
        "id new",
        "id alone",
    ],
)
def test_calls_stand_one_after_the_other_however_they_come(deltas: tuple[dict[str, Any], ...]) -> None:
    """Each call is one block with all of its arguments."""
    events = stream(*deltas)
    assert blocks(events) == [("f", '{"x":1}'), ("g", "{}")]
    ids = [event["content_block"]["id"] for event in events if event["type"] == "content_block_start"]
    assert ids == ["a", "b"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("index", [None, 0])
@pytest.mark.parametrize("names", [("f", "f"), ("f", "g")])
def test_whole_calls_without_ids_are_calls_of_their_own(index: int | None, names: tuple[str, str]) -> None:
    """Some send each call as one piece, and nothing to tell them apart by."""
    events = stream(*(call(index, "", name, '{"x":1}') for name in names))
    assert blocks(events) == [(name, '{"x":1}') for name in names]
    ids = {event["content_block"]["id"] for event in events if event["type"] == "content_block_start"}
    assert len(ids) == 2


def test_text_amid_a_call_follows_it() -> None:
    """No block is torn apart."""
    events = stream(call(0, "a", "f", '{"x"'), {"content": "so"}, call(0, arguments=":1}"), {"content": " be it"})
    assert blocks(events)[0] == ("f", '{"x":1}')
    assert "".join(said for name, said in blocks(events)[1:]) == "so be it"


def test_thoughts_and_text_are_blocks_of_their_own() -> None:
    """By either name that providers have for thoughts, and with parts instead of a text."""
    parts = {"content": [{"type": "text", "text": "Hi"}]}
    events = stream({"reasoning": "hm"}, {"reasoning_content": "!"}, parts, {"refusal": " no"}, finish="stop")
    assert blocks(events) == [("thinking", "hm!"), ("text", "Hi no")]
    assert events[-2]["delta"]["stop_reason"] == "refusal"


def test_a_stream_without_end_mark_is_whole_by_its_finish() -> None:
    """Some providers just close."""
    assert blocks(stream({"content": "Hi"}, finish="length", mark=False)) == [("text", "Hi")]


def test_a_stream_that_is_cut_ends_as_if_at_its_limit() -> None:
    """Its block is closed, its stop reason is max_tokens."""
    reader = MessagesOverChat(model="public", stops=[])
    reader.feed(sse({"choices": [{"index": 0, "delta": {"content": "Hi"}}]}))
    closing = reader.closing(tokens=SPENT, cost=None, cut=True).decode()
    assert "content_block_stop" in closing
    assert '"stop_reason":"max_tokens"' in closing


def test_comments_keep_the_client_waiting() -> None:
    """Before the message begins as a comment, within it as a ping."""
    reader = MessagesOverChat(model="public", stops=[])
    assert reader.feed(b": still here\n\n") == b":\n\n"
    reader.feed(sse({"choices": [{"index": 0, "delta": {"content": "Hi"}}]}))
    assert reader.feed(b": still here\n\n").startswith(b"event: ping\n")


def test_an_error_in_the_stream_is_captured() -> None:
    """It is not relayed; edge says it in its own words."""
    reader = MessagesOverChat(model="public", stops=[])
    out = reader.feed(sse({"error": {"message": "Overloaded", "code": 529}}))
    captured = reader.finish()
    assert (out, captured.error, captured.error_status, captured.complete) == (b"", "Overloaded", 529, False)


@pytest.mark.parametrize("line", [b"data: {\n\n", b"data: 7\n\n", b'data: {"choices":{}}\n\n'])
def test_hostile_lines_are_refused(line: bytes) -> None:
    """What is no chunk raises, whatever it is."""
    with pytest.raises(ProviderMisbehaved):
        MessagesOverChat(model="m", stops=[]).feed(line)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": 7},
        {"content": [7, {"text": 7}]},
        {"tool_calls": 7},
        {"tool_calls": [7, {"function": 7}, {"id": 7, "index": "x", "function": {"name": 7, "arguments": 7}}]},
        {"reasoning_content": {"a": 1}},
    ],
)
def test_hostile_deltas_harm_nobody(delta: dict[str, Any]) -> None:
    """What can't be read is nothing."""
    assert stream(delta, {"content": "Hi"}, finish="stop")[-1]["type"] == "message_stop"
