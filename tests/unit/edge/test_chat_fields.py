"""Fields of a chat request that travel on: of their documented types, or refused by name; others as they are."""

import json
from typing import Any

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.chat_request import parse_chat

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}}}


def parse(*messages: dict[str, Any], **fields: Any) -> None:
    """Checks a body with these messages, or an ordinary one, and these fields."""
    body = {"model": "m", "messages": list(messages) or [{"role": "user", "content": "Hi"}], **fields}
    parse_chat(json.dumps(body, indent=1).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": "x"}, "audio"),
        ({"function_call": 5}, "function_call"),
        ({"functions": [{"name": 5}]}, "functions[0].name"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logprobs": "x"}, "logprobs"),
        ({"metadata": "x"}, "metadata"),
        ({"modalities": "text"}, "modalities"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
        ({"prediction": "x"}, "prediction"),
        ({"prompt_cache_key": 5}, "prompt_cache_key"),
        ({"prompt_cache_retention": 5}, "prompt_cache_retention"),
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"response_format": "x"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": "x"}}, "response_format.json_schema"),
        ({"safety_identifier": 5}, "safety_identifier"),
        ({"seed": "x"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"service_tier": 5}, "service_tier"),
        ({"stop": 1}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"store": "x"}, "store"),
        ({"stream": "x"}, "stream"),
        ({"stream_options": "x"}, "stream_options"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tools": "x"}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tools": [{"type": 5}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, {"type": "function", "name": "flat"}]}, "tools[1].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": "x"}}]}, "tools[0].function.parameters"),
        ({"top_logprobs": "x"}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"user": 5}, "user"),
        ({"verbosity": 5}, "verbosity"),
        ({"web_search_options": "x"}, "web_search_options"),
    ],
)
def test_a_documented_field_of_a_wrong_type_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """400 before money is held, and not whatever the provider would make of it."""
    with pytest.raises(TollbridgeError) as caught:
        parse(**fields)
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.details["param"] == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "role"),
        ({"role": 5, "content": "x"}, "role"),
        ({"content": "x"}, "role"),
        ({"role": "user", "content": "x", "name": 5}, "name"),
        ({"role": "user", "content": [5]}, "content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, "content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": None}]}, "content[0].image_url"),
        ({"role": "user", "content": [{"type": "file", "file": "x"}]}, "content[0].file"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": [1]}]}, "content[0].input_audio"),
        ({"role": "assistant", "content": [{"type": "refusal", "text": "x"}]}, "content[0].refusal"),
        ({"role": "assistant", "refusal": 5}, "refusal"),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": 5}]}, "tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "tool_calls[0].function.name"),
        ({"role": "assistant", "tool_calls": [CALL, {"id": "c", "type": "function"}]}, "tool_calls[1].function"),
        ({"role": "user", "content": []}, "content"),
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": 5, "content": "x"}, "tool_call_id"),
    ],
)
def test_a_wrong_message_is_refused_with_its_place(message: dict[str, Any], param: str) -> None:
    """The second of two messages is named as such."""
    with pytest.raises(TollbridgeError) as caught:
        parse({"role": "user", "content": "x"}, message)
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.details["param"] == f"messages[1].{param}"


def test_documented_fields_in_their_shapes_pass() -> None:
    """Also null, which clients send for what they leave out."""
    parts = [
        {"type": "text", "text": ""},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
    ]
    fields: dict[str, Any] = {
        "audio": {"voice": "alloy", "format": "wav"},
        "function_call": {"name": "f"},
        "functions": [{"name": "f", "parameters": {"type": "object"}}],
        "logit_bias": {"50256": -100},
        "logprobs": True,
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "x"},
        "reasoning_effort": "low",
        "response_format": FORMAT,
        "seed": -(1 << 63),
        "service_tier": "auto",
        "stop": ["a", "b"],
        "store": False,
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "tools": [TOOL, {"type": "custom", "custom": {"name": "c"}}],
        "top_logprobs": 5,
        "user": "u",
        "verbosity": "low",
    }
    parse(
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": parts, "name": "n"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "7", "tool_call_id": "c"},
        **fields,
    )
    parse(**dict.fromkeys(fields))
    parse(stop="x", tool_choice="auto", function_call="auto")
    for choice in ("none", "required", "any"):
        parse(tool_choice=choice, tools=[TOOL])


def test_what_openai_does_not_document_passes() -> None:
    """Providers know more fields and parts than we do."""
    parse({"role": "user", "content": [{"type": "something_new", "x": 5}], "y": 1}, top_k=5, extra=[{"a": None}])
