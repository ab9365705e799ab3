"""A provider that gives all calls of an answer one id: they stay apart, and whoever refers to one means one."""

import json
from typing import Any

import pytest

from tests.unit.edge.web_provider import Provider, chunk, stream, whole
from tests.unit.edge.world import World


def call(number: int, arguments: str) -> dict[str, Any]:
    return {"index": number, "id": "same", "type": "function", "function": {"name": "f", "arguments": arguments}}


CALLS = [call(0, '{"a":1}'), call(1, '{"a":2}')]
WHOLE = {"id": "c", "choices": [{"index": 0, "message": {"tool_calls": CALLS}, "finish_reason": "tool_calls"}]}
PIECES = [
    {**call(0, '{"a":')},
    {"index": 0, "id": "same", "function": {"arguments": "1}"}},
    {**call(1, '{"a":')},
    {"index": 1, "id": "same", "function": {"arguments": "2}"}},
]
STREAM = [
    *(chunk(choices=[{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}]) for piece in PIECES),
    chunk(finish="tool_calls"),
    b"data: [DONE]\n\n",
]


async def told(world: World, provider: Provider, path: str, *, streams: bool) -> list[dict[str, Any]]:
    """The answer, or the data of its events."""
    provider.handlers = [stream(*STREAM) if streams else whole(WHOLE)]
    said = {"input": "Hi"} if path == "/responses" else {"messages": [{"role": "user", "content": "Hi"}]}
    async with world.post({"model": "fast", "max_tokens": 50, "stream": streams, **said}, path=path) as response:
        text = await response.text()
        assert response.status == 200, text
    await world.settled()
    if not streams:
        return [json.loads(text)]
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("streams", [False, True])
async def test_calls_of_a_response_have_ids_of_their_own(world: World, provider: Provider, streams: bool):
    """The first keeps the provider's."""
    events = await told(world, provider, "/responses", streams=streams)
    response = events[-1]["response"] if streams else events[0]
    assert [item["arguments"] for item in response["output"]] == ['{"a":1}', '{"a":2}']
    ids = [item["call_id"] for item in response["output"]]
    assert ids[0] == "same"
    assert len(set(ids)) == 2
    done = [event["item"]["call_id"] for event in events if event.get("type") == "response.output_item.done"]
    assert done == (ids if streams else [])


@pytest.mark.parametrize("streams", [False, True])
async def test_calls_of_a_message_have_ids_of_their_own(world: World, provider: Provider, streams: bool):
    """The same for Anthropic's clients."""
    events = await told(world, provider, "/messages", streams=streams)
    if streams:
        blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
        pieces = {0: "", 1: ""}
        for event in events:
            if event["type"] == "content_block_delta":
                pieces[event["index"]] += event["delta"]["partial_json"]
        assert list(pieces.values()) == ['{"a":1}', '{"a":2}']
    else:
        blocks = events[0]["content"]
        assert [block["input"] for block in blocks] == [{"a": 1}, {"a": 2}]
    assert blocks[0]["id"] == "same"
    assert len({block["id"] for block in blocks}) == 2


async def test_calls_of_a_chat_stay_apart(world: World, provider: Provider):
    """Each keeps its number."""
    events = await told(world, provider, "/chat/completions", streams=True)
    arguments = {0: "", 1: ""}
    for event in events:
        for piece in event["choices"][0]["delta"].get("tool_calls", []) if event["choices"] else []:
            arguments[piece["index"]] += piece["function"]["arguments"]
    assert arguments == {0: '{"a":1}', 1: '{"a":2}'}
