"""A tool that must be called by its name: in its own protocol such an answer ends as its provider says."""

import json
from typing import Any

import pytest

from tests.unit.edge.web_provider import Provider, chunk, stream, whole
from tests.unit.edge.world import World

CALL = {"index": 0, "id": "x", "type": "function", "function": {"name": "find", "arguments": "{}"}}
WHOLE = {
    "id": "c",
    "choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [CALL]}, "finish_reason": "stop"}],
}
STREAM = [
    chunk(choices=[{"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": None}]),
    chunk(finish="stop"),
    b"data: [DONE]\n\n",
]
TOOL = {"name": "find", "parameters": {"type": "object"}}
ASKED: dict[str, dict[str, Any]] = {
    "/chat/completions": {
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "find"}},
    },
    "/messages": {
        "max_tokens": 9,
        "tools": [{"name": "find", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "find"},
    },
}


async def ends(world: World, provider: Provider, path: str, *, streams: bool, **more: object) -> set[str]:
    """Why the answer has ended, in its client's words."""
    provider.handlers = [stream(*STREAM) if streams else whole(WHOLE)]
    body = {"model": "fast", "messages": [{"role": "user", "content": "Hi"}], "stream": streams, **ASKED[path], **more}
    async with world.post(body, path=path) as response:
        text = await response.text()
        assert response.status == 200, text
    await world.settled()
    told = (
        [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        if streams
        else [json.loads(text)]
    )
    if path == "/messages":
        return {
            reason for each in told if (reason := each.get("stop_reason") or each.get("delta", {}).get("stop_reason"))
        }
    choices = [choice for each in told for choice in each["choices"]]
    return {choice["finish_reason"] for choice in choices if choice["finish_reason"]}


@pytest.mark.parametrize("streams", [False, True])
async def test_a_forced_call_ends_as_its_provider_says(world: World, provider: Provider, streams: bool):
    """OpenAI itself ends it with `stop`; where nobody insisted, `stop` after calls is a mistake that loses them."""
    path = "/chat/completions"
    assert await ends(world, provider, path, streams=streams) == {"stop"}
    for choice in ("auto", "required", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}):
        assert await ends(world, provider, path, streams=streams, tool_choice=choice) == {"tool_calls"}


@pytest.mark.parametrize("streams", [False, True])
async def test_a_forced_call_ends_a_message_as_any_call_does(world: World, provider: Provider, streams: bool):
    """Anthropic knows no other end of calls."""
    assert await ends(world, provider, "/messages", streams=streams) == {"tool_use"}
