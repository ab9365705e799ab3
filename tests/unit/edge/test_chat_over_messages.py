"""OpenAI chat over Anthropic's Messages: request, whole answer and stream mean the same on both sides."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from chassis.errors import Code, TollbridgeError
from pricing.tokens import Tokens
from services.edge.translate.chat_over_messages import ChatOverMessages, prepare, read_answer
from services.edge.translate.chat_to_messages import messages_request
from tests.fakes.routes import route_to
from upstream.anthropic.messages import messages_url
from upstream.outcome import AttemptFailed, ProviderMisbehaved
from upstream.route import WireProtocol
from upstream.usage import UsageLimits

PNG = "data:image/png;base64,iVBORw0KGgo="


def request(**fields: object) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return messages_request(body, max_tokens=64)


def test_conversation_keeps_its_meaning() -> None:
    """System texts go to the top, tool calls and results become blocks, neighbours of one role one turn."""
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    made = request(
        messages=[
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": PNG}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "t2"}]},
            {"role": "tool", "tool_call_id": "t1", "content": "one"},
            {"role": "tool", "tool_call_id": "t2", "content": ""},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]},
            {"role": "developer", "content": "And kind."},
        ]
    )
    assert made["max_tokens"] == 64
    assert [block["text"] for block in made["system"]] == ["Be brief.", "And kind."]
    assert [turn["role"] for turn in made["messages"]] == ["user", "assistant", "user"]
    assert made["messages"][0]["content"][1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgo=",
    }
    assert made["messages"][1]["content"][0] == {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}}
    results = made["messages"][2]["content"]
    assert [block["type"] for block in results] == ["tool_result", "tool_result", "image"]
    assert results[0] == {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "one"}]}
    assert results[2]["source"] == {"type": "url", "url": "https://x.test/a.png"}


def test_raw_fields_are_read() -> None:
    """The fields of a request may still be the client's bytes."""
    raw = msgspec.json.decode(b'{"messages":[{"role":"user","content":"Hi"}],"stop":"x"}', type=dict[str, msgspec.Raw])
    made = messages_request(raw, max_tokens=1)
    assert made == {
        "max_tokens": 1,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stop_sequences": ["x"],
    }


TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def allowing(name: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}}]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("any", None, {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, None, {"type": "tool", "name": "f"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_tool_choices(choice: object, parallel: object, expected: object) -> None:
    """Each way to choose a tool has its counterpart."""
    made = request(tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel)
    assert made["tools"] == [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    assert made.get("tool_choice") == expected


def test_only_allowed_tools_are_told() -> None:
    """Anthropic has no list of allowed tools beside that of all."""
    other = {"type": "function", "function": {"name": "g"}}
    made = request(tools=[TOOL, other], tool_choice=allowing("g"))
    assert [tool["name"] for tool in made["tools"]] == ["g"]
    assert made["tool_choice"] == {"type": "any"}


def test_sampling_and_format() -> None:
    """Temperature ends at 1, JSON schemas become the output format, an end user is named."""
    schema = {"type": "object", "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    made = request(temperature=1.7, top_p=0.5, stop=["a", "b"], response_format=wanted, user="u-1", seed=1)
    assert made["temperature"] == 1
    assert "top_p" not in made
    assert made["stop_sequences"] == ["a", "b"]
    assert made["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert made["metadata"] == {"user_id": "u-1"}
    assert "JSON" in request(response_format={"type": "json_object"})["system"][0]["text"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": "x"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
            "messages[0].content[0]",
        ),
        ({"tools": "x"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"tools": [TOOL], "tool_choice": allowing("other")}, "tool_choice.allowed_tools.tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    """Wrong or untranslatable input is a 400 that names the field, never an exception of ours."""
    with pytest.raises(TollbridgeError) as refused:
        request(**fields)
    assert refused.value.code is Code.INVALID_REQUEST
    assert refused.value.details["param"] == param


@pytest.mark.parametrize("where", ["tools[0].type", "messages[0].tool_calls[0].type"])
def test_custom_tools_are_refused_by_name(where: str) -> None:
    """Agents offer them unasked, so it is said which one it is and what it is."""
    tool = {"id": "c", "type": "custom", "custom": {"name": "apply_patch", "input": "x"}}
    said = {"role": "assistant", "tool_calls": [tool]}
    asked: dict[str, object] = {"tools": [tool]} if where.startswith("tools") else {"messages": [said]}
    with pytest.raises(TollbridgeError, match=r"custom tools .*apply_patch.*functions") as refused:
        request(**asked)
    assert refused.value.details["param"] == where


def test_tool_arguments_must_be_a_text() -> None:
    """What is none is the client's mistake."""
    call = {"id": "t", "function": {"name": "f", "arguments": 7}}
    with pytest.raises(TollbridgeError) as refused:
        request(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert refused.value.details["param"] == "messages[0].tool_calls[0].function.arguments"


def test_call_carries_the_credential_in_anthropics_way() -> None:
    """x-api-key and the version; the model is the provider's."""
    route = route_to("http://127.0.0.1:1", protocol=WireProtocol.ANTHROPIC)
    body = {"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": True}}
    call = prepare(body, route, max_tokens=3, stream=True, request_id="r")
    assert call.url == "http://127.0.0.1:1/v1/messages"
    assert (call.headers["x-api-key"], call.headers["anthropic-version"]) == ("secret", "2023-06-01")
    sent = json.loads(call.body)
    assert (sent["model"], sent["stream"], sent["max_tokens"]) == ("theirs", True, 3)
    assert "stream_options" not in sent
    assert messages_url("https://x.test/v1/") == "https://x.test/v1/messages"


USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 5,
    "cache_creation_input_tokens": 4,
    "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 3},
    "output_tokens": 1,
}
SPENT = Tokens(input=10, cached_input=5, cache_write=1, cache_write_1h=3, output=9)


def message(**fields: object) -> bytes:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ]
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": content}
    return json.dumps({**whole, "stop_reason": "tool_use", "usage": {**USAGE, "output_tokens": 9}, **fields}).encode()


def test_whole_answer() -> None:
    """Text, thinking, tool calls, finish and usage arrive in chat's shape."""
    answer = read_answer(message(), model="public", created=7)
    assert answer.captured.tokens == SPENT
    assert answer.text() == 'hmHellof{"a":1}'
    shown = json.loads(answer.render(tokens=SPENT, cost="0.5"))
    choice = shown["choices"][0]
    assert (shown["id"], shown["model"], shown["created"]) == ("msg_1", "public", 7)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Hello"
    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert shown["usage"]["prompt_tokens"] == 19
    assert shown["usage"]["cost"] == 0.5


def test_no_message_is_a_failure() -> None:
    """A success without a message is the provider's failure."""
    for body in (b"", b"[]", b'{"type":"error","error":{"message":"x"}}', b'{"type":"message","content":7}'):
        with pytest.raises(AttemptFailed):
            read_answer(body, model="public", created=7)


def wire(*events: dict[str, object], end: str = "\n") -> bytes:
    return "".join(f"event: {event['type']}{end}data: {json.dumps(event)}{end}{end}" for event in events).encode()


def delta(index: int, **fields: object) -> dict[str, object]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


START: dict[str, object] = {"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": USAGE}}
STOP: list[dict[str, object]] = [
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]
STREAM = [
    START,
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    delta(0, type="thinking_delta", thinking="hm"),
    delta(0, type="signature_delta", signature="s"),
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    delta(1, type="text_delta", text="Hé"),
    delta(1, type="text_delta", text="llo\n\n"),
    {"type": "novel_event", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
    },
    delta(2, type="input_json_delta", partial_json=""),
    delta(2, type="input_json_delta", partial_json='{"a"'),
    delta(2, type="input_json_delta", partial_json=":1}"),
    {"type": "content_block_stop", "index": 2},
    {
        "type": "content_block_start",
        "index": 3,
        "content_block": {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
    },
    {"type": "content_block_stop", "index": 3},
    *STOP,
]


def reader(*, include_usage: bool = True, limits: UsageLimits | None = None) -> ChatOverMessages:
    return ChatOverMessages(model="public", include_usage=include_usage, created=7, limits=limits)


def chunks_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(event[6:]) for event in data.split(b"\n\n") if event.startswith(b"data: {")]


@st.composite
def splits(draw: st.DrawFn) -> list[bytes]:
    data = wire(*STREAM, end=draw(st.sampled_from(["\n", "\r\n", "\r"])))
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(data)])]


@given(splits())
@settings(max_examples=60, deadline=None)
def test_stream_wherever_the_reads_fall(reads: list[bytes]) -> None:
    """Role first, text, reasoning, tool calls in pieces, finish; then usage with our cost and the end mark."""
    stream = reader()
    chunks = chunks_of(b"".join(stream.feed(read) for read in reads))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(piece.get("content", "") for piece in deltas) == "Héllo\n\n"
    assert "".join(piece.get("reasoning_content", "") for piece in deltas) == "hm"
    calls = [call for piece in deltas for call in piece.get("tool_calls", [])]
    assert [call["id"] for call in calls if "id" in call] == ["t1", "t2"]
    arguments = {0: "", 1: ""}
    for call in calls:
        arguments[call["index"]] += call["function"]["arguments"]
    assert arguments == {0: '{"a":1}', 1: "{}"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [
        "tool_calls"
    ]
    assert {(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks} == {("msg_1", "public", 7)}
    captured = stream.finish()
    assert (captured.tokens, captured.complete, captured.generation_id) == (SPENT, True, "msg_1")
    assert stream.delivered_text() == 'hmHéllo\n\nf{"a":1}g{}'
    closing = stream.closing(tokens=SPENT, cost="0.0000098")
    assert b'"cost":0.0000098' in closing
    (usage,) = chunks_of(closing)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 28
    assert closing.endswith(b"data: [DONE]\n\n")


def test_openais_own_types_accept_the_chunks_and_the_answer() -> None:
    """What we write is what OpenAI's SDK reads."""
    stream = reader()
    out = stream.feed(wire(*STREAM)) + stream.closing(tokens=SPENT, cost="0.1")
    for event in out.split(b"\n\n"):
        if event.startswith(b"data: {"):
            ChatCompletionChunk.model_validate_json(event[6:], strict=True)
    whole = read_answer(message(), model="public", created=7).render(tokens=SPENT, cost=None)
    ChatCompletion.model_validate_json(whole, strict=True)


def test_start_alone_is_no_usage_to_charge() -> None:
    """A stream that breaks off knows its input, but its output has to be counted."""
    stream = reader()
    stream.feed(wire(*STREAM[:8]))
    captured = stream.finish()
    assert captured.tokens is None
    assert captured.so_far == Tokens(input=10, cached_input=5, cache_write=1, cache_write_1h=3, output=1)
    assert not captured.complete
    cut = chunks_of(stream.closing(tokens=SPENT, cost=None, cut=True))
    assert cut[0]["choices"][0]["finish_reason"] == "length"


def test_error_event() -> None:
    """An error inside the stream is captured with the status that its type stands for."""
    stream = reader()
    error: dict[str, object] = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    out = stream.feed(wire(*STREAM[:8], error, *STOP))
    captured = stream.finish()
    assert (captured.error, captured.error_status, captured.complete) == ("Overloaded", 529, False)
    assert stream.ended
    assert b"Overloaded" not in out


def test_usage_beyond_its_bounds_is_flagged() -> None:
    """What can't be is not charged."""
    stream = reader(limits=UsageLimits(max_input=100, max_output=8))
    stream.feed(wire(*STREAM))
    assert stream.finish().tokens is None
    assert stream.finish().implausible


def test_client_gone() -> None:
    """What nobody got is not counted as delivered."""
    stream = reader()
    stream.feed(wire(*STREAM[:8]))
    stream.stop_delivery()
    stream.feed(wire(*STREAM[8:]))
    assert stream.delivered_text() == "hmHé"
    assert stream.finish().tokens == SPENT


@pytest.mark.parametrize("line", [b"data: {\n\n", b"data: 7\n\n", b'data: {"type":"message_start","message":3}\n\n'])
def test_hostile_lines_are_refused(line: bytes) -> None:
    """What is no Messages event raises, whatever it is."""
    with pytest.raises(ProviderMisbehaved):
        reader().feed(line)


def test_without_asking_no_usage_chunk() -> None:
    """A client that did not ask gets the end mark alone."""
    assert reader(include_usage=False).closing(tokens=SPENT, cost="1") == b"data: [DONE]\n\n"
