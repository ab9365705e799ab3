"""Counts that stand in for a provider's: by class where it has said so much, never beyond what was reserved."""

import json

import pytest

from pricing.tokens import Tokens
from services.edge.bodies.chat_request import parse_chat
from services.edge.paid.counting import counted
from services.edge.paid.prompt import count_prompt
from upstream.openai.chat_stream import texts_of
from upstream.usage import Captured, UsageLimits, count_tokens

REQUEST = parse_chat(b'{"model":"m","messages":[{"role":"user","content":"hello world"}]}')
LIMITS = UsageLimits(max_input=1000, max_output=5)


@pytest.mark.parametrize(
    ("so_far", "text", "expected"),
    [
        (Tokens(input=10, cached_input=90, cache_write=7, output=1), "hello world", (10, 90, 7, 2)),
        (None, "hello world", (6, 0, 0, 2)),
        (None, "one two three four five six seven eight", (6, 0, 0, 5)),
    ],
)
async def test_input_keeps_the_classes_that_the_provider_named(
    so_far: Tokens | None, text: str, expected: tuple[int, int, int, int]
) -> None:
    """A stream that is cut after its start is charged its cache reads as cache reads, and its output as counted."""
    captured = Captured(so_far=so_far)
    use = await counted(request=REQUEST, text=lambda: text, provider_model="m", captured=captured, limits=LIMITS)
    tokens = use.tokens
    assert (tokens.input, tokens.cached_input, tokens.cache_write, tokens.output) == expected


WORDS = "the quick brown fox jumps over the lazy dog"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": WORDS}}
CUSTOM = {"id": "c", "type": "custom", "custom": {"name": "f", "input": WORDS}}


@pytest.mark.parametrize(
    "more",
    [
        {"message": {"tool_calls": [CALL]}},
        {"message": {"tool_calls": [CUSTOM]}},
        {"message": {"function_call": {"name": "f", "arguments": WORDS}}},
        {"message": {"name": WORDS}},
        {"message": {"reasoning_content": WORDS}},
        {"message": {"content": [{"type": "text", "text": WORDS}]}},
        {"message": {"content": [{"type": "refusal", "refusal": WORDS}]}},
        {"tools": [{"type": "function", "function": {"name": "f", "description": WORDS}}]},
        {"functions": [{"name": "f", "description": WORDS}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": {"description": WORDS}}}},
    ],
)
def test_everything_that_a_model_reads_is_counted(more: dict):
    """Tool calls, names, tools, functions and schemas are prompt as texts are."""
    message = {"role": "assistant", "content": "", **more.pop("message", {})}
    plain = count_prompt(json.dumps({"messages": [{"role": "assistant", "content": ""}]}).encode(), "m")
    counted_now = count_prompt(json.dumps({"messages": [message], **more}).encode(), "m")
    assert counted_now >= plain + count_tokens(WORDS, "m")


@pytest.mark.parametrize(
    "body",
    [
        {"input": WORDS},
        {"input": [{"role": "user", "content": WORDS}]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": WORDS}]}]},
        {"input": [{"type": "function_call", "name": "f", "arguments": WORDS}]},
        {"input": [{"type": "custom_tool_call", "name": "f", "input": WORDS}]},
        {"input": [{"type": "function_call_output", "output": WORDS}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_text", "text": WORDS}]}]},
        {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": WORDS}]}]},
        {"input": [{"type": "text", "text": WORDS}]},
        {"input": "", "instructions": WORDS},
        {"input": "", "text": {"format": {"type": "json_schema", "name": "f", "schema": {"description": WORDS}}}},
        {"prompt": WORDS},
        {"prompt": ["", WORDS]},
    ],
)
def test_whatever_the_endpoint_what_is_read_is_counted(body: dict):
    """Items, instructions and prompts are prompt as messages are."""
    assert count_prompt(json.dumps(body).encode(), "m") >= count_tokens(WORDS, "m")


@pytest.mark.parametrize(
    "delta",
    [
        {"content": WORDS},
        {"refusal": WORDS},
        {"reasoning_content": WORDS},
        {"reasoning_content": None, "reasoning": WORDS},
        {"audio": {"id": "a", "transcript": WORDS}},
        {"tool_calls": [{"index": 0, **CALL}]},
        {"tool_calls": [{"index": 0, **CUSTOM}]},
        {"function_call": {"arguments": WORDS}},
    ],
)
def test_everything_that_a_model_writes_is_counted(delta: dict):
    """Reasoning, refusals, speech and the arguments of tool calls are output as content is."""
    assert WORDS in texts_of(delta)
