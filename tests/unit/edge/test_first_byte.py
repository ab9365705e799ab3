"""What a provider says reaches the client at once, whatever protocol either speaks: shown by order, not by time."""

import asyncio
import json
from typing import Any

import pytest

from tests.unit.edge.web_provider import Provider, chunk, ending, stream
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import KEY


def sse(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


CHAT = (chunk("Hello"), (chunk(" there"), *ending(10, 4)))
MESSAGES = (
    sse("message_start", message={"id": "m", "type": "message", "content": [], "usage": {"input_tokens": 10}})
    + sse("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + sse("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
    (
        sse("content_block_delta", index=0, delta={"type": "text_delta", "text": " there"}),
        sse("content_block_stop", index=0),
        sse("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}),
        sse("message_stop"),
    ),
)
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50},
    "responses": {"input": "Hi"},
}


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
@pytest.mark.parametrize("path", BODIES)
async def test_the_first_word_waits_for_no_second(world: World, provider: Provider, path: str, protocol: str):
    """The provider says more only when the client has heard what it said before."""
    heard = asyncio.Event()
    first, rest = CHAT if protocol == "openai" else MESSAGES
    provider.handlers = [stream(first, heard, *rest)]
    world.truth.routes[0]["protocol"] = protocol
    said = b""
    body = {"model": "fast", "stream": True, **BODIES[path]}
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        asyncio.timeout(20),
        world.session.post(f"{world.base_url}/v1/{path}", json=body, headers=headers) as response,
    ):
        async for data in response.content.iter_any():
            said += data
            if b"Hello" in said:
                heard.set()
    assert b" there" in said


async def test_legacy_completions_wait_for_nothing_either(world: World, provider: Provider):
    """The same over `/completions`."""
    heard = asyncio.Event()
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "theirs"}

    def text(words: str, finish: str | None = None) -> bytes:
        choice = {"index": 0, "text": words, "finish_reason": finish, "logprobs": None}
        return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"

    provider.handlers = [stream(text("Hello"), heard, text(" there", "stop"), b"data: [DONE]\n\n")]
    said = b""
    body = {"model": "fast", "stream": True, "prompt": "Hi"}
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        asyncio.timeout(20),
        world.session.post(f"{world.base_url}/v1/completions", json=body, headers=headers) as response,
    ):
        async for data in response.content.iter_any():
            said += data
            if b"Hello" in said:
                heard.set()
    assert b" there" in said


@pytest.mark.parametrize("size", [3, 1000, 1 << 20])
@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
async def test_a_megabyte_of_arguments_is_a_call_of_a_response(
    world: World, provider: Provider, protocol: str, size: int
):
    """Over both protocols, in small pieces or one, with signs cut in two by the reads."""
    arguments = json.dumps({"text": '{"ü": "🎉"}, ' * (60_000 if size > 3 else 2000)}, ensure_ascii=False)
    pieces = [arguments[start : start + size] for start in range(0, len(arguments), size)]
    if protocol == "openai":
        named = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
        deltas = [[named], *([{"index": 0, "function": {"arguments": piece}}] for piece in pieces)]
        parts = [
            b"data: "
            + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": each}}]}, ensure_ascii=False).encode()
            + b"\n\n"
            for each in deltas
        ]
        parts += [chunk(finish="tool_calls"), *ending(10, 4)[1:]]
    else:
        parts = [
            MESSAGES[0].partition(b"event: content_block_start")[0],
            sse(
                "content_block_start", index=0, content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}}
            ),
            *(
                sse("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": piece})
                for piece in pieces
            ),
            sse("content_block_stop", index=0),
            sse("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 4}),
            sse("message_stop"),
        ]
    data = b"".join(parts)
    provider.handlers = [stream(*(data[start : start + 65_533] for start in range(0, len(data), 65_533)))]
    world.truth.routes[0]["protocol"] = protocol
    body = {"model": "fast", "stream": True, "input": "Hi"}
    headers = {"authorization": f"Bearer {KEY}"}
    async with world.session.post(f"{world.base_url}/v1/responses", json=body, headers=headers) as response:
        events = [json.loads(line[6:]) for line in (await response.read()).split(b"\n") if line.startswith(b"data: ")]
    assert "".join(each["delta"] for each in events if each["type"].endswith("arguments.delta")) == arguments
    last = events[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["output"][0]["arguments"] == arguments
