"""`POST /responses` where a provider answers oddly or a client leaves: nothing is spoilt, and the charge is right."""

import asyncio

import pytest
from aiohttp import web

from tests.unit.edge.web_provider import Provider, chunk, ending, stream, whole
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import KEY
from tollbridge.usage.v1 import usage_pb2
from upstream.usage import count_tokens


def ask(world: World, **fields):
    """Sends a response request."""
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "fast", "input": "Hello", **fields}
    return world.session.post(f"{world.base_url}/v1/responses", json=body, headers=headers)


@pytest.mark.parametrize("odd", [b'"x":"\xff"', b'"x":1e999'])
async def test_what_nobody_reads_of_an_answer_can_not_spoil_it(world: World, provider: Provider, odd: bytes):
    """A field that is no text, or no number, stands beside a whole answer."""
    answer = b'{"id":"c","choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],%b}' % odd

    async def odd_answer(_: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/json")

    provider.handlers = [odd_answer]
    async with ask(world) as response:
        told = await response.json()
        assert response.status == 200, told
    assert told["output"][0]["content"][0]["text"] == "Hi"
    assert (await world.only_event()).charge_nano_usd > 0
    await world.settled()


async def test_texts_in_texts_are_no_text(world: World, provider: Provider):
    """However deep a provider nests its parts, nobody climbs down after them."""
    nested: object = "no text"
    for _ in range(450):
        nested = [{"text": nested}]
    content = [{"type": "text", "text": "Hi"}, {"type": "text", "text": nested}]
    said = {"index": 0, "message": {"content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    provider.handlers = [whole({"id": "c", "choices": [said], "usage": usage})]
    async with ask(world) as response:
        told = await response.json()
        assert response.status == 200, told
    assert told["output"][0]["content"][0]["text"] == "Hi"
    await world.settled()


async def test_a_client_that_leaves_is_drained_for_its_usage(world: World, provider: Provider):
    """What the provider reports at the end is charged once, whatever was delivered."""
    held = asyncio.Event()
    provider.handlers = [stream(chunk("one two three"), held, chunk(" four"), *ending(3, 9))]
    response = await ask(world, stream=True)
    while b"one two three" not in await response.content.readany():
        continue
    response.close()
    await asyncio.sleep(0)
    held.set()
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, "drain")
    assert event.charge_nano_usd in (3 * 1000 + 9 * 4000,)
    await world.settled()


@pytest.mark.parametrize("streams", [True, False])
async def test_thinking_and_calls_are_counted_where_no_usage_came(world: World, provider: Provider, streams: bool):
    """All that a token was paid for: reasoning, text, names and arguments."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": "five six"}'}}
    message = {"reasoning_content": "one two", "content": " three four", "tool_calls": [call]}
    said = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    told = stream(
        chunk(choices=[{"index": 0, "delta": message, "finish_reason": None}]),
        chunk(finish="tool_calls"),
        b"data: [DONE]\n\n",
    )
    provider.handlers = [told if streams else whole({"id": "c", "choices": [said]})]
    async with ask(world, stream=streams) as response:
        assert response.status == 200
        await response.read()
    event = await world.only_event()
    assert event.tokens.output == count_tokens(' three fourone twolook{"a": "five six"}', "sandbox-1")
    await world.settled()
