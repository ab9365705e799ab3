"""What other gateways get wrong in answers and streams, each as a promise that it is right here."""

import json
from typing import Any

import pytest

from pricing.tokens import Tokens
from services.edge.translate import chat_over_messages, messages_over_chat
from services.edge.translate.chat_over_messages import ChatOverMessages
from services.edge.translate.messages_over_chat import MessagesOverChat
from upstream.openai.chat_stream import ChatStream
from upstream.usage import StreamReader

USAGE = {"prompt_tokens": 8, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
CALL = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}


def piece(arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "theirs"}
    return {**head, "choices": [choice], **fields}


def read(reader: StreamReader, *events: dict[str, Any], done: bool = True) -> list[Any]:
    """The events that a client gets for a provider's."""
    data = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events)
    out = reader.feed(data + (b"data: [DONE]\n\n" if done and "type" not in events[0] else b""))
    captured = reader.finish()
    assert captured.complete
    out += reader.closing(tokens=captured.tokens or Tokens(input=1, output=1), cost="0.5")
    lines = [line[6:] for line in out.decode().split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def chat(*events: dict[str, Any], include_usage: bool = True, done: bool = True) -> list[Any]:
    return read(ChatStream(model="public", include_usage=include_usage), *events, done=done)


def messages(*events: dict[str, Any]) -> list[Any]:
    return read(MessagesOverChat(model="public", stops=()), *events)


def crossed(*events: dict[str, Any], include_usage: bool = True) -> list[Any]:
    return read(ChatOverMessages(model="public", include_usage=include_usage, created=1), *events)


def claude(*blocks: tuple[dict[str, Any], list[dict[str, Any]]], stop: str = "end_turn") -> list[dict[str, Any]]:
    """Anthropic's events: blocks with their deltas."""
    usage = {"input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2, "output_tokens": 1}
    made: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "m", "content": [], "usage": usage}}]
    for index, (block, deltas) in enumerate(blocks):
        made.append({"type": "content_block_start", "index": index, "content_block": block})
        made += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        made.append({"type": "content_block_stop", "index": index})
    end = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 9}}
    return [*made, end, {"type": "message_stop"}]


TEXT = ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "Hi"}, {"type": "text_delta", "text": "!"}])
TOOL = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}


def deltas(events: list[Any]) -> list[dict[str, Any]]:
    return [choice["delta"] for each in events if each != "[DONE]" for choice in each["choices"]]


@pytest.mark.parametrize("done", [True, False])
def test_every_stream_ends_with_one_end_mark(done: bool) -> None:
    """Whether the provider sent one, and behind everything else."""
    events = chat(chunk({"content": "a"}), chunk({}, "stop"), done=done)
    assert [place for place, each in enumerate(events) if each == "[DONE]"] == [len(events) - 1]


@pytest.mark.parametrize(
    "ends",
    [
        [chunk({}, "stop", usage=USAGE)],
        [chunk({}, "stop"), chunk({}, usage=USAGE)],
        [chunk({}, "stop"), chunk({}, choices=[], usage=USAGE)],
        [chunk({}, "stop", usage=None), chunk({}, choices=[], usage=USAGE)],
    ],
)
def test_the_usage_comes_once_and_last(ends: list[dict[str, Any]]) -> None:
    """Wherever the provider put it: in a chunk without choices, right before the end mark."""
    *_, usage, _ = events = chat(chunk({"content": "a"}), *ends)
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 8
    assert sum(1 for each in events if each != "[DONE]" and each.get("usage")) == 1


def test_who_does_not_ask_gets_no_usage_chunk() -> None:
    """Older clients fall over a chunk without choices."""
    for events in (
        chat(chunk({"content": "a"}), chunk({}, "stop"), chunk({}, choices=[], usage=USAGE), include_usage=False),
        crossed(*claude(TEXT), include_usage=False),
    ):
        assert all(each == "[DONE]" or each["choices"] for each in events)


def test_the_first_chunk_with_the_role_is_kept() -> None:
    """Some clients put a stream together by it, although it has no text."""
    opening = {"role": "assistant", "content": "", "refusal": None}
    assert deltas(chat(chunk(opening), chunk({"content": "a"}), chunk({}, "stop")))[0] == opening


def test_the_role_is_said_once() -> None:
    """In the first chunk of a translated stream and in no other: clients that add texts up get `assistantassistant`."""
    roles = [delta.get("role") for delta in deltas(crossed(*claude(TEXT)))]
    assert roles[0] == "assistant"
    assert not any(roles[1:])


def test_there_is_one_finish() -> None:
    """In a translated stream: null in every chunk before it, and nothing behind it but the usage."""
    events = crossed(*claude(TEXT))
    finishes = [choice["finish_reason"] for each in events[:-2] for choice in each["choices"]]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_not_lost(name: str) -> None:
    """Under either name: as it came for chat clients, as thinking for Anthropic's."""
    events = [chunk({"role": "assistant", name: "hm"}), chunk({"content": "a"}), chunk({}, "stop")]
    assert deltas(chat(*events))[0] == {"role": "assistant", name: "hm"}
    thoughts = [each["delta"] for each in messages(*events) if each["type"] == "content_block_delta"]
    assert thoughts[0] == {"type": "thinking_delta", "thinking": "hm"}


def test_thinking_becomes_reasoning() -> None:
    """And never text; the signature stays out."""
    thinking = ({"type": "thinking", "thinking": ""}, [{"type": "thinking_delta", "thinking": "hm"}])
    signed = (thinking[0], [*thinking[1], {"type": "signature_delta", "signature": "SIGNED"}])
    said = deltas(crossed(*claude(signed, TEXT)))
    assert "".join(delta.get("reasoning_content", "") for delta in said) == "hm"
    assert "".join(delta.get("content", "") for delta in said) == "Hi!"


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
@pytest.mark.parametrize("text", ["", "Let me see"])
def test_an_answer_with_calls_stops_for_them(text: str, finish: str) -> None:
    """Agents go on only at `tool_use`, whatever else was said and however the provider finishes."""
    events = messages(chunk({"content": text}), chunk({"tool_calls": [CALL]}), chunk(piece("{}")), chunk({}, finish))
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_no_piece_of_the_arguments_is_lost() -> None:
    """Also when the first comes with the name, and the last with the finish."""
    begun = {**CALL, "function": {"name": "f", "arguments": '{"a"'}}
    events = messages(chunk({"tool_calls": [begun]}), chunk(piece(": ")), chunk(piece("1}"), "tool_calls"))
    pieces = [each["delta"]["partial_json"] for each in events if each["type"] == "content_block_delta"]
    assert "".join(pieces) == '{"a": 1}'


@pytest.mark.parametrize("pieces", [[], [""]])
def test_a_call_without_arguments_has_an_empty_object(pieces: list[str]) -> None:
    """Clients parse what they put together: an empty text is no JSON."""
    tool = (TOOL, [{"type": "input_json_delta", "partial_json": each} for each in pieces])
    calls = [call for delta in deltas(crossed(*claude(tool, stop="tool_use"))) for call in delta.get("tool_calls", [])]
    assert "".join(call["function"]["arguments"] for call in calls) == "{}"


def test_calls_are_numbered_among_calls() -> None:
    """From 0, whatever stood before them: clients make lists by these numbers."""
    said = deltas(crossed(*claude(TEXT, (TOOL, []), ({**TOOL, "id": "t2"}, []), stop="tool_use")))
    assert {call["index"] for delta in said for call in delta.get("tool_calls", [])} == {0, 1}


def test_id_name_and_type_of_a_call_are_said_once() -> None:
    """Clients add up every text of a call."""
    tool = (TOOL, [{"type": "input_json_delta", "partial_json": each} for each in ('{"a"', ":1}")])
    calls = [call for delta in deltas(crossed(*claude(tool))) for call in delta.get("tool_calls", [])]
    assert [call["function"].get("name") for call in calls] == ["f", None, None]
    assert [call.get("id") for call in calls] == ["t1", None, None]


def test_messages_come_in_anthropics_order() -> None:
    """A block ends before the next begins, a ping follows the start, and every stream has its last two events."""
    kinds = [
        each["type"] for each in messages(chunk({"content": "a"}), chunk({"tool_calls": [CALL]}), chunk({}, "stop"))
    ]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert kinds == ["message_start", "ping", *block, *block, "message_delta", "message_stop"]


def test_cached_tokens_are_counted_once() -> None:
    """OpenAI's are a part of the input, Anthropic's stand beside it."""
    usage = crossed(*claude(TEXT))[-2]["usage"]
    assert (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (10, 3)
    assert usage["total_tokens"] == 19
    other = messages(chunk({"content": "a"}), chunk({}, "stop"), chunk({}, choices=[], usage=USAGE))[-2]["usage"]
    assert (other["input_tokens"], other["cache_read_input_tokens"]) == (5, 3)


def test_running_usage_is_not_added_up() -> None:
    """Anthropic's output counts are cumulative, and so are those of providers with usage in every chunk."""
    running = [chunk({"content": "a"}, usage={**USAGE, "completion_tokens": n}) for n in (1, 2, 3)]
    assert chat(*running, chunk({}, "stop", usage=USAGE))[-2]["usage"]["completion_tokens"] == 4
    assert crossed(*claude(TEXT))[-2]["usage"]["completion_tokens"] == 9


@pytest.mark.parametrize(
    ("stop", "finish"), [("max_tokens", "length"), ("refusal", "content_filter"), ("stop_sequence", "stop")]
)
def test_the_reason_to_stop_is_translated(stop: str, finish: str) -> None:
    """Clients look for OpenAI's words."""
    assert crossed(*claude(TEXT, stop=stop))[-3]["choices"][0]["finish_reason"] == finish


def test_a_whole_answer_with_calls_has_no_content() -> None:
    """Null rather than an empty text, and every call with its arguments as text."""
    body = {"id": "m", "type": "message", "content": [{**TOOL, "input": {"a": 1}}], "stop_reason": "tool_use"}
    answer = chat_over_messages.read_answer(json.dumps(body).encode(), model="public", created=1)
    choice = json.loads(answer.render(tokens=Tokens(input=1, output=1), cost=None))["choices"][0]
    assert choice["message"]["content"] is None
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert choice["finish_reason"] == "tool_calls"


def test_a_whole_message_with_calls_has_no_empty_text() -> None:
    """Clients send it back, and Anthropic refuses it."""
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    body = {"id": "c", "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}
    answer = messages_over_chat.read_answer(json.dumps(body).encode(), model="public", stops=())
    message = json.loads(answer.render(tokens=Tokens(input=1, output=1), cost=None))
    assert [block["type"] for block in message["content"]] == ["tool_use"]
    assert message["stop_reason"] == "tool_use"


def test_chunks_without_a_finish_are_chunks() -> None:
    """Some providers say it only at the end."""
    bare = {"id": "c1", "model": "theirs", "choices": [{"index": 0, "delta": {"content": "a"}}]}
    for events in (chat(bare, bare, chunk({}, "stop")), messages(bare, bare, chunk({}, "stop"))):
        assert json.dumps(events).count('"a"') == 2
