"""`POST /messages` over both provider protocols: answers, streams, refusals, and what they cost."""

import json
import re

import pytest
from aiohttp import web
from anthropic.types import Message

from tests.unit.edge.web_provider import Provider, chunk, ending, status, stream
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY
from tollbridge.usage.v1 import usage_pb2

USAGE = {"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 2}
CHARGE = 10 * 1000 + 4 * 100 + 3 * 1000 + 2 * 4000
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "theirs", "content": [], "usage": USAGE}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "usage": {**USAGE, "output_tokens": 1}}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi there"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE},
    {"type": "message_stop"},
]


def told(events: list[dict]) -> list[bytes]:
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def events_of(text: str) -> list[dict]:
    found = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in found]
    return found


def asking(**fields) -> dict:
    return {"model": "fast", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}], **fields}


def ask(world: World, body: dict | bytes, **headers: str):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"x-api-key": KEY, "content-type": "application/json", "anthropic-version": "2023-06-01", **headers}
    return world.session.post(f"{world.base_url}/v1/messages", data=data, headers=given)


def whole(message: dict):
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(message)

    return answer


@pytest.fixture
def claudius(world: World, provider: Provider) -> Provider:
    """A provider that speaks Messages."""
    world.truth.routes[0]["protocol"] = "anthropic"
    return provider


async def test_a_native_answer_is_relayed_with_the_public_model_and_its_cost(world: World, claudius: Provider):
    """Fields that nobody here knows come through; cache reads and writes are charged by their own prices."""
    content = [{"type": "text", "text": "Hi", "citations": [{"type": "page_location"}]}, {"type": "novel", "x": [1]}]
    claudius.handlers = [whole({**MESSAGE, "content": content, "stop_reason": "end_turn", "novel": {"a": None}})]
    async with ask(world, asking()) as response:
        answer = await response.json()
        assert response.status == 200, answer
        assert response.headers["request-id"] == response.headers["x-request-id"]
    assert answer == {
        **MESSAGE,
        "model": "fast",
        "content": content,
        "stop_reason": "end_turn",
        "novel": {"a": None},
        "usage": {**USAGE, "cost": 0.0000214},
    }
    event = await world.only_event()
    assert (event.charge_nano_usd, event.operation, event.evidence) == (CHARGE, "messages", usage_pb2.EVIDENCE_PROVIDER)
    await world.settled()


async def test_a_native_request_travels_as_it_came(world: World, claudius: Provider):
    """Cache marks, thinking, citations and unknown fields are untouched; the model's name and limit are ours."""
    claudius.handlers = [whole({**MESSAGE, "stop_reason": "end_turn"})]
    mark = {"cache_control": {"type": "ephemeral"}}
    told = asking(
        system=[{"type": "text", "text": "Be brief.", **mark}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hello", **mark}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "sealed"}]},
            {"role": "user", "content": [{"type": "novel", "deep": {"a": [1.50, None]}}]},
        ],
        tools=[{"name": "f", "input_schema": {"type": "object"}, **mark}],
        thinking={"type": "adaptive"},
        novel_field={"keep": True},
        max_tokens=5000,
    )
    betas = "interleaved-thinking-2025-05-14, context-1m-2025-08-07,mcp-client-2025-04-04"
    async with ask(world, told, **{"anthropic-beta": betas}) as response:
        assert response.status == 200, await response.text()
        assert response.headers["x-tollbridge-max-tokens"] == "1000"
    sent = claudius.calls[0]
    assert sent == {**told, "model": "sandbox-1", "max_tokens": 1000, "stream": False}
    assert claudius.headers[0]["anthropic-beta"] == "interleaved-thinking-2025-05-14"
    assert claudius.headers[0]["anthropic-version"] == "2023-06-01"
    assert claudius.headers[0]["x-api-key"] == "c-secret"


async def test_thoughts_of_another_provider_are_left_out_where_they_are_refused(world: World, claudius: Provider):
    """They have no signature; everything else in the conversation stays."""
    claudius.handlers = [whole({**MESSAGE, "stop_reason": "end_turn"})]
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    said = {"type": "text", "text": 'it says "signature":"" and "thinking" here'}
    signed = {"type": "thinking", "thinking": "hm", "signature": "sealed"}
    odd = {**signed, "signature": 7}
    user = {"role": "user", "content": "Hi"}
    history = [
        user,
        {"role": "assistant", "content": [thought]},
        {"role": "assistant", "content": [thought, {"type": "thinking", "thinking": "hm"}, odd, signed, said]},
        user,
    ]
    async with ask(world, asking(messages=history)) as response:
        assert response.status == 200, await response.text()
    assert claudius.calls[0]["messages"] == [user, {"role": "assistant", "content": [odd, signed, said]}, user]


async def test_ids_of_another_providers_calls_are_put_into_anthropics_form(world: World, claudius: Provider):
    """It would refuse the conversation for them; a call and its result stay one pair, and what a tool says stays."""
    claudius.handlers = [whole({**MESSAGE, "stop_reason": "end_turn"})]
    user = {"role": "user", "content": "Look!"}
    call = {"type": "tool_use", "id": "functions.look:0", "name": "look", "input": {"id": "a.b"}}
    own = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    results = [{"type": "tool_result", "tool_use_id": each["id"], "content": '{"id":"x:y"}'} for each in (call, own)]
    history = [user, {"role": "assistant", "content": [call, own]}, {"role": "user", "content": results}]
    async with ask(world, asking(messages=history)) as response:
        assert response.status == 200, await response.text()
    _, called, came = claudius.calls[0]["messages"]
    name = called["content"][0]["id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", name)
    assert called["content"] == [{**call, "id": name}, own]
    assert came["content"] == [{**results[0], "tool_use_id": name}, results[1]]


async def test_a_native_stream_is_relayed_event_by_event(world: World, claudius: Provider):
    """Every event as it came, but for the public model and the cost at the end."""
    claudius.handlers = [stream(*told(EVENTS))]
    async with ask(world, asking(stream=True)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events_of(await response.text())
    assert found[0]["message"]["model"] == "fast"
    assert found[1:-2] == EVENTS[1:-2]
    assert found[-2] == {**EVENTS[-2], "usage": {**USAGE, "cost": 0.0000214}}
    assert found[-1] == EVENTS[-1]
    assert (await world.only_event()).charge_nano_usd == CHARGE
    await world.settled()


@pytest.mark.parametrize("streams", [True, False])
async def test_a_chat_provider_serves_messages(world: World, provider: Provider, streams: bool):
    """What is cached stands beside the input here, and inside the prompt there."""
    usage = {"prompt_tokens": 14, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi there"}, "finish_reason": "stop"}
    last = chunk(usage=usage, choices=[])
    pieces = (chunk("Hi "), chunk("there"), chunk(finish="stop"), last, b"data: [DONE]\n\n")
    provider.handlers = [stream(*pieces) if streams else whole({"id": "c1", "choices": [choice], "usage": usage})]
    async with ask(world, asking(stream=streams, system="Be brief.", stop_sequences=["END"])) as response:
        text = await response.text()
        assert response.status == 200, text
    sent = provider.calls[0]
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (sent["max_tokens"], sent["stop"], sent["model"]) == (100, ["END"], "sandbox-1")
    if streams:
        found = events_of(text)
        kinds = [event["type"] for event in found]
        assert kinds[:3] == ["message_start", "ping", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert (
            "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta") == "Hi there"
        )
        message, shown = found[0]["message"], found[-2]["usage"]
        assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    else:
        message = json.loads(text)
        Message.model_validate_json(text, strict=True)
        assert message["content"] == [{"type": "text", "text": "Hi there"}]
        assert message["stop_reason"] == "end_turn"
        shown = message["usage"]
    assert (message["id"], message["model"], message["role"]) == ("msg_c1", "fast", "assistant")
    assert (shown["input_tokens"], shown["cache_read_input_tokens"], shown["output_tokens"]) == (10, 4, 2)
    event = await world.only_event()
    assert event.charge_nano_usd == 10 * 1000 + 4 * 100 + 2 * 4000
    assert shown["cost"] == event.charge_nano_usd / 1_000_000_000
    await world.settled()


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
async def test_a_stream_that_fails_ends_with_anthropics_error_event(world: World, provider: Provider, protocol: str):
    """The provider breaks off: an `error` event, nothing after it, and nothing is charged."""
    world.truth.routes[0]["protocol"] = protocol
    pieces = told(EVENTS[:4]) if protocol == "anthropic" else [chunk("Hi there")]
    provider.handlers = [stream(*pieces, 0.05, breaks=True)]
    async with ask(world, asking(stream=True)) as response:
        text = await response.text()
    assert events_of(text)[-1]["error"]["type"] == "api_error"
    assert "message_stop" not in text
    event = await world.only_event()
    assert (event.charge_nano_usd, event.ended) == (0, usage_pb2.ENDED_UPSTREAM_FAILED)
    await world.settled()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "max_tokens"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(world: World, change: dict, field: str):
    """400 in Anthropic's shape, whose message names the field, and nothing is held."""
    async with ask(world, asking(**change)) as response:
        body = await response.json()
        assert response.status == 400, body
        assert body["request_id"] == response.headers["request-id"]
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert field in body["error"]["message"]
    assert not world.truth.held


async def test_who_is_refused_reads_it_in_anthropics_words(world: World, provider: Provider):
    """A wrong key, an unknown model, no money, and what the provider rejects."""
    for headers, body, code, kind in (
        ({"x-api-key": "wrong"}, asking(), 401, "authentication_error"),
        ({}, asking(model="nope"), 404, "not_found_error"),
        ({}, b"{", 400, "invalid_request_error"),
    ):
        async with ask(world, body, **headers) as response:
            assert (response.status, (await response.json())["error"]["type"]) == (code, kind)
    provider.handlers = [status(422, "no such thing")]
    async with ask(world, asking()) as response:
        assert (response.status, (await response.json())["error"]["message"]) == (400, "no such thing")
    await until(lambda: not world.truth.held)
    world.truth.balance_nano_usd = 10
    async with ask(world, asking()) as response:
        assert (response.status, (await response.json())["error"]["type"]) == (402, "billing_error")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_another_method_is_refused_in_anthropics_words_too(world: World, path: str):
    """405, and what is possible."""
    async with world.session.get(world.base_url + path) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
        body = await response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")


async def test_a_key_makes_one_execution_of_two_messages(world: World, provider: Provider):
    """The same bytes for the same key, charged once."""
    provider.handlers = [stream(chunk("Hi "), *ending(4, 1))]
    bodies = []
    for _ in range(2):
        async with ask(world, asking(stream=True), **{"idempotency-key": "k-1"}) as response:
            bodies.append(await response.read())
    assert bodies[0] == bodies[1]
    assert len(provider.calls) == 1
    assert (await world.only_event()).charge_nano_usd == 4 * 1000 + 4000


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
async def test_who_leaves_pays_what_the_provider_reports(world: World, provider: Provider, protocol: str):
    """The stream is read on to its usage."""
    world.truth.routes[0]["protocol"] = protocol
    if protocol == "anthropic":
        provider.handlers = [stream(*told(EVENTS[:4]), 0.3, *told(EVENTS[4:]))]
    else:
        provider.handlers = [stream(chunk("Hi "), 0.3, *ending(4, 2))]
    response = await ask(world, asking(stream=True))
    assert await response.content.readany()
    response.close()
    event = await world.only_event()
    assert event.ended == usage_pb2.ENDED_CLIENT_GONE
    assert event.charge_nano_usd == (CHARGE if protocol == "anthropic" else 4 * 1000 + 2 * 4000)
    await world.settled()


@pytest.mark.parametrize("streams", [True, False])
async def test_another_protocol_takes_over_before_the_first_byte(world: World, provider: Provider, streams: bool):
    """What Anthropic's protocol failed to serve is said in chat, and the client sees only messages."""
    route = world.truth.routes[0]
    world.truth.routes = [{**route, "protocol": "anthropic"}, {**route, "protocol": "openai"}]
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    told = {"id": "c1", "choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 1}}
    provider.handlers = [status(529, "Overloaded"), stream(chunk("Hi"), *ending(4, 1)) if streams else whole(told)]
    async with ask(world, asking(stream=streams)) as response:
        text = await response.text()
        assert response.status == 200, text
    assert [call.get("stream", False) for call in provider.calls] == [streams, streams]
    assert "event: message_stop" in text if streams else json.loads(text)["type"] == "message"
    assert (await world.only_event()).charge_nano_usd == 4 * 1000 + 4000
    await world.settled()


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
async def test_at_its_total_time_a_stream_ends_as_if_at_its_limit(world: World, provider: Provider, protocol: str):
    """Charged as delivered, by our count, which the last usage names."""
    world.truth.routes[0]["protocol"] = protocol
    world.truth.total_s = 0.5
    pieces = told(EVENTS[:4]) if protocol == "anthropic" else [chunk("Hi there")]
    provider.handlers = [stream(*pieces, 5.0)]
    async with ask(world, asking(stream=True)) as response:
        found = events_of(await response.text())
    assert [event["type"] for event in found[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert found[-2]["delta"]["stop_reason"] == "max_tokens"
    event = await world.only_event()
    assert event.evidence == usage_pb2.EVIDENCE_COUNTED
    assert found[-2]["usage"]["output_tokens"] == event.tokens.output == 2
    assert found[-2]["usage"]["cost"] == event.charge_nano_usd / 1_000_000_000
    await world.settled()


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
async def test_who_leaves_a_route_that_cancels_pays_what_was_delivered(world: World, provider: Provider, protocol: str):
    """Counted; the provider is left at once."""
    world.truth.routes[0]["protocol"] = protocol
    world.truth.on_disconnect = "cancel"
    pieces = told(EVENTS[:4]) if protocol == "anthropic" else [chunk("Hi there")]
    provider.handlers = [stream(*pieces, 5.0)]
    response = await ask(world, asking(stream=True))
    while b"Hi there" not in await response.content.readany():
        continue
    response.close()
    event = await world.only_event()
    assert (event.ended, event.policy, event.tokens.output) == (usage_pb2.ENDED_CLIENT_GONE, "cancel", 2)
    await world.settled()
