"""A chat completion through edge over real HTTP and gRPC: the answer, its cost, and the event that billing gets."""

import json
from decimal import Decimal

from pricing.charge import charge_nano_usd
from pricing.tokens import Tokens, Units
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import PRICE
from tollbridge.usage.v1 import usage_pb2


def charge(prompt: int, completion: int, cached: int = 0) -> int:
    tokens = Tokens(input=prompt - cached, cached_input=cached, output=completion)
    return charge_nano_usd(tokens, Units(requests=1), PRICE)


async def test_an_answer_is_charged_exactly_what_its_usage_costs(world: World):
    """The answer's cost, the event's charge and tokens × price agree to the nano-dollar."""
    script = {"prompt_tokens": 37, "cached_tokens": 5, "output_tokens": 11}
    async with world.post(world.body(script)) as response:
        raw = await response.read()
        assert response.status == 200, raw
        request_id = response.headers["x-request-id"]
    answer = json.loads(raw, parse_float=Decimal)
    expected = charge(37, 11, cached=5)
    assert answer["model"] == "fast"
    assert answer["usage"]["cost"] == Decimal(expected) / 10**9
    event = await world.event_of(request_id)
    assert event.charge_nano_usd == expected
    assert event.kind == usage_pb2.USAGE_KIND_CHARGE
    assert event.ended == usage_pb2.ENDED_COMPLETE
    assert event.evidence == usage_pb2.EVIDENCE_PROVIDER
    assert event.price_version == PRICE.id
    assert event.closes_hold
    await world.settled()
    assert world.truth.balance_nano_usd == 1_000_000_000 - expected


async def test_parts_and_tools_pass(world: World):
    """A conversation with an image, a tool call and its result is the provider's to read."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        {"role": "user", "content": [{"type": "text", "text": "So?"}]},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    async with world.post({"model": "fast", "messages": messages, "tools": tools}) as response:
        assert response.status == 200, await response.text()


async def test_a_stream_carries_its_cost_before_its_end_mark(world: World):
    """The usage chunk with the exact cost comes right before `data: [DONE]`."""
    script = {"prompt_tokens": 37, "output_tokens": 40, "chunks": 10}
    async with world.post(world.body(script, stream=True, stream_options={"include_usage": True})) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        request_id = response.headers["x-request-id"]
        events = [line[6:] for line in (await response.text()).split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    usage = json.loads(events[-2], parse_float=Decimal)["usage"]
    assert usage["cost"] == Decimal(charge(37, 40)) / 10**9
    assert {json.loads(event)["model"] for event in events[:-1]} == {"fast"}
    event = await world.event_of(request_id)
    assert event.charge_nano_usd == charge(37, 40)
    assert event.stream
    assert event.first_byte_ms >= 0
    await world.settled()


async def test_a_stream_without_include_usage_shows_none_and_is_charged_all_the_same(world: World):
    """What the client asked to see has no influence on what it pays."""
    async with world.post(world.body({"prompt_tokens": 9, "output_tokens": 4}, stream=True)) as response:
        text = await response.text()
        request_id = response.headers["x-request-id"]
    assert '"usage"' not in text
    assert text.endswith("data: [DONE]\n\n")
    assert (await world.event_of(request_id)).charge_nano_usd == charge(9, 4)
