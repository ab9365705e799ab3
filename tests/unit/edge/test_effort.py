"""What a chat or a response asks for reaches Anthropic where it can, and where it can't the client is told."""

import json
from typing import Any

import pytest

from services.edge.translate.effort import effort_of
from tests.unit.edge.web_provider import Provider, stream, whole
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import KEY

TAKE_IT = [
    "claude-opus-4-5-20251101",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
    "claude-opus-5",
    "claude-haiku-5-5",
    "claude-fable-5",
    "anthropic.claude-opus-4-6-v1:0",
    "anthropic/Claude-Opus-4.7",
]
REFUSE_IT = [
    "claude-haiku-4-5",
    "claude-sonnet-4-5-20250929",
    "claude-opus-4-1-20250805",
    "claude-sonnet-4-20250514",
    "claude-3-7-sonnet-20250219",
    "claude-mythos-preview",
    "deepseek-chat",
]
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "theirs",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 4, "output_tokens": 1},
}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": MESSAGE["usage"]},
    {"type": "message_stop"},
]


@pytest.mark.parametrize(
    ("asked", "effort"),
    [
        *[("none", "low"), ("minimal", "low"), ("low", "low"), ("medium", "medium")],
        *[("high", "high"), ("xhigh", "high"), ("max", "high"), ("immense", None), (None, None)],
    ],
)
def test_an_effort_is_said_in_words_that_every_model_with_one_knows(asked: object, effort: object) -> None:
    """Those beyond high only some know; what nobody knows is not guessed."""
    assert effort_of({"reasoning_effort": asked}, provider_model="claude-opus-5-5") == effort


@pytest.mark.parametrize(("model", "is_told"), [*[(m, True) for m in TAKE_IT], *[(m, False) for m in REFUSE_IT]])
def test_only_models_that_take_an_effort_are_told(model: str, is_told: bool) -> None:
    """The others would refuse the whole request."""
    assert (effort_of({"reasoning_effort": "high"}, provider_model=model) == "high") is is_told


async def asked(world: World, provider: Provider, path: str, *, model: str, **fields: Any) -> tuple[str | None, Any]:
    """What the client is told was left out, and the `output_config` that the provider saw."""
    world.truth.routes[0].update(protocol="anthropic", model=model)
    told = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in EVENTS]
    provider.handlers = [stream(*told) if fields.get("stream") else whole(MESSAGE)]
    body = {"model": "fast", **fields}
    headers = {"authorization": f"Bearer {KEY}"}
    async with world.session.post(f"{world.base_url}/v1/{path}", json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.read()
    await world.settled()
    return response.headers.get("x-tollbridge-dropped-fields"), provider.calls[-1].get("output_config")


@pytest.mark.parametrize("streams", [False, True])
async def test_what_a_chat_loses_on_its_way_is_named(world: World, provider: Provider, streams: bool) -> None:
    """In a header of whole answers and of streams; nothing is named where nothing is lost."""
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": streams}
    left_out, told = await asked(
        world, provider, "chat/completions", model="claude-haiku-4-5", reasoning_effort="low", seed=7, **chat
    )
    assert (left_out, told) == ("reasoning_effort, seed", None)
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}}}
    named = {"reasoning_effort": "low", "frequency_penalty": 0, "response_format": schema}
    left_out, told = await asked(world, provider, "chat/completions", model="claude-opus-5", **named, **chat)
    assert (left_out, told["effort"], told["format"]["type"]) == (None, "low", "json_schema")


async def test_what_a_response_loses_is_named_as_its_client_called_it(world: World, provider: Provider) -> None:
    """`reasoning.effort`, whatever a chat calls it."""
    fields = {"input": "Hi", "reasoning": {"effort": "xhigh"}, "text": {"verbosity": "low"}}
    assert await asked(world, provider, "responses", model="claude-haiku-4-5", **fields) == (
        "reasoning.effort, text.verbosity",
        None,
    )
    assert await asked(world, provider, "responses", model="claude-opus-5-5", **fields) == (
        "text.verbosity",
        {"effort": "high"},
    )
