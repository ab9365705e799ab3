"""`POST /responses` over both provider protocols: events, items, usage, failures and what a client that leaves pays."""

import asyncio
import json

import aiohttp
import openai
import pytest

from tests.unit.edge.web_provider import Provider, chunk, ending, stream, usage_chunk, whole
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import KEY
from tollbridge.usage.v1 import usage_pb2


def ask(world: World, **fields):
    """Sends a response request."""
    headers = {"authorization": f"Bearer {KEY}", **fields.pop("headers", {})}
    body = {"model": "fast", "input": "Hello", **fields}
    return world.session.post(f"{world.base_url}/v1/responses", json=body, headers=headers)


async def events_of(response: aiohttp.ClientResponse) -> list[dict]:
    """The events of a stream; each is named as its data says."""
    told = []
    for block in (await response.text()).split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            told.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {told[-1]['type']}"
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


@pytest.mark.parametrize("streams", [False, True])
async def test_a_tool_that_was_left_out_is_told(world: World, provider: Provider, streams: bool):
    """In a header, and the response doesn't say that the model had it."""
    look = {"type": "function", "name": "look", "parameters": {}, "strict": None}
    said = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    provider.handlers = [stream(chunk("Hi"), *ending(4, 1)) if streams else whole(said)]
    asked = {"tools": [{"type": "web_search", "external_web_access": False}, look], "stream": streams}
    async with ask(world, **asked) as response:
        assert response.status == 200, await response.text()
        assert response.headers["x-tollbridge-dropped-tools"] == "web_search"
        told = (await events_of(response))[-1]["response"] if streams else await response.json()
    assert told["tools"] == [look]
    assert [tool["function"]["name"] for tool in provider.calls[0]["tools"]] == ["look"]
    await world.settled()


async def test_a_whole_answer_is_a_response(world: World, provider: Provider):
    """Text, usage with its cost, what was asked, and nothing stored."""
    chat = {
        "id": "c",
        "model": "theirs",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    provider.handlers = [whole(chat)]
    async with ask(world, instructions="Be brief.", metadata={"a": "b"}, store=True) as response:
        told = await response.json()
        assert response.status == 200, told
    assert told["id"].startswith("resp_")
    assert (told["object"], told["status"], told["model"], told["store"]) == ("response", "completed", "fast", False)
    assert (told["instructions"], told["metadata"]) == ("Be brief.", {"a": "b"})
    assert told["output"][0]["content"] == [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]
    assert told["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 11,
        "cost": 0.0000134,
    }
    event = await world.only_event()
    assert event.charge_nano_usd == 5 * 1000 + 4 * 100 + 2 * 4000
    assert event.operation == "responses"
    assert provider.calls[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert "metadata" not in provider.calls[0]
    await world.settled()


def delta(**fields) -> bytes:
    """A chunk with such a delta."""
    return chunk(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


def called(index: int, **fields) -> bytes:
    """A chunk with a piece of a tool call."""
    return delta(tool_calls=[{"index": index, **fields}])


async def test_a_stream_tells_each_step_of_a_message(world: World, provider: Provider):
    """Numbered without gaps, the same ids throughout, and the end has all of it with usage and cost."""
    provider.handlers = [stream(delta(role="assistant", content=""), chunk("Hel"), chunk("lo"), *ending(3, 2))]
    async with ask(world, stream=True) as response:
        told = await events_of(response)
    assert [event["type"].removeprefix("response.") for event in told] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response_ids = {event["response"]["id"] for event in told if "response" in event}
    item_ids = {event["item_id"] for event in told if "item_id" in event} | {told[2]["item"]["id"]}
    assert len(response_ids) == len(item_ids) == 1
    assert [event["delta"] for event in told if "delta" in event] == ["Hel", "lo"]
    assert told[6]["text"] == told[7]["part"]["text"] == "Hello"
    end = told[-1]["response"]
    assert (end["status"], end["output"]) == ("completed", [told[8]["item"]])
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"], end["usage"]["cost"]) == (3, 2, 0.000011)
    assert (await world.only_event()).charge_nano_usd == 3 * 1000 + 2 * 4000
    await world.settled()


@pytest.mark.parametrize("streams", [True, False])
async def test_likelihoods_are_whole_also_where_a_provider_leaves_bytes_out(
    world: World, provider: Provider, streams: bool
):
    """The SDK's types want a token's bytes and its rivals; chat may have neither."""
    odd = {"content": [{"token": "é", "logprob": -0.5, "bytes": None}]}
    said = {"index": 0, "message": {"content": "é"}, "logprobs": odd, "finish_reason": "stop"}
    piece = chunk(choices=[{"index": 0, "delta": {"content": "é"}, "logprobs": odd, "finish_reason": None}])
    provider.handlers = [stream(piece, *ending(3, 1)) if streams else whole({"id": "c", "choices": [said]})]
    async with ask(world, stream=streams, include=["message.output_text.logprobs"]) as response:
        told = (await events_of(response))[-1]["response"] if streams else await response.json()
    message = openai.types.responses.ResponseOutputMessage.model_validate(told["output"][0])
    assert message.content[0].model_dump()["logprobs"] == [
        {"token": "é", "bytes": [195, 169], "logprob": -0.5, "top_logprobs": []}
    ]


async def test_it_does_not_matter_where_reads_end(world: World, provider: Provider):
    """Letters of many bytes torn apart, CRLF, comments: the text is whole."""
    said = b": keep-alive\r\n\r\n" + chunk("Grüße, 世界 👋").replace(b"\n", b"\r\n")
    raw = said.replace(rb"\u4e16", "世".encode()) + b"".join(ending(3, 2))
    provider.handlers = [stream(*(raw[at : at + 7] for at in range(0, len(raw), 7)))]
    async with ask(world, stream=True) as response:
        told = await events_of(response)
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == "Grüße, 世界 👋"


async def test_reasoning_and_calls_come_as_items_of_their_own(world: World, provider: Provider):
    """In the order they begin; arguments of two calls may come by turns, and a later name is waited for."""
    provider.handlers = [
        stream(
            delta(reasoning_content="Let me "),
            delta(reasoning_content="see."),
            chunk("Looking."),
            called(0, id="call_a", type="function", function={"name": "look", "arguments": ""}),
            called(1, id="call_b"),
            called(0, function={"arguments": '{"a":'}),
            called(1, function={"arguments": "{"}),
            called(1, function={"name": "hear", "arguments": "}"}),
            called(0, function={"arguments": "1}"}),
            chunk(finish="tool_calls"),
            usage_chunk(3, 9),
            b"data: [DONE]\n\n",
        )
    ]
    async with ask(world, stream=True) as response:
        told = await events_of(response)
    reasoning, message, look, hear = told[-1]["response"]["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert message["content"][0]["text"] == "Looking."
    assert (look["name"], look["call_id"], look["arguments"]) == ("look", "call_a", '{"a":1}')
    assert (hear["name"], hear["call_id"], hear["arguments"]) == ("hear", "call_b", "{}")
    pieces = "".join(each["delta"] for each in told if each.get("item_id") == look["id"] and "delta" in each)
    assert pieces == look["arguments"]
    added = [each["item"]["id"] for each in told if each["type"] == "response.output_item.added"]
    done = [each["item"] for each in told if each["type"] == "response.output_item.done"]
    assert added == [each["id"] for each in done]
    assert done == [reasoning, message, look, hear]


async def test_a_call_of_a_namespaces_tool_names_both(world: World, provider: Provider):
    """As the client told the tool, not as the chat knew it."""
    tools = [{"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]}]
    piece = called(0, id="c", type="function", function={"name": "agents__spawn", "arguments": "{}"})
    provider.handlers = [stream(piece, *ending(3, 2))]
    async with ask(world, stream=True, tools=tools) as response:
        told = await events_of(response)
    (call,) = told[-1]["response"]["output"]
    assert (call["namespace"], call["name"]) == ("agents", "spawn")
    assert told[-1]["response"]["tools"] == tools
    assert provider.calls[0]["tools"] == [{"type": "function", "function": {"name": "agents__spawn"}}]


@pytest.mark.parametrize("indexes", [(0, 1), (0, 0), (None, None)])
async def test_calls_are_told_apart_however_they_are_numbered(world: World, provider: Provider, indexes: tuple):
    """Some providers number all calls alike, or not at all; some repeat id and name, or send the arguments decoded."""
    calls = [
        {"index": index, "id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": piece}}
        for index, name, pieces in zip(indexes, ("look", "hear"), (("{", "}"), ({"a": 1},)), strict=True)
        for piece in pieces
    ]
    provider.handlers = [stream(*(delta(tool_calls=[call]) for call in calls), *ending(3, 2))]
    async with ask(world, stream=True) as response:
        told = await events_of(response)
    output = told[-1]["response"]["output"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output] == [
        ("call_look", "look", "{}"),
        ("call_hear", "hear", '{"a":1}'),
    ]


NAMELESS = [
    {"index": 0, "function": {"name": name, "arguments": arguments}}
    for name, arguments in (("look", '{"a":1}'), ("look", '{"a":2}'), ("go", "{}"))
]


@pytest.mark.parametrize("ids", [None, "", "call_1"])
async def test_whole_calls_are_told_apart_whatever_they_are_called(world: World, provider: Provider, ids: str | None):
    """In a whole answer each is one, also when ids are missing, empty or all the same."""
    calls = [{**call, "id": ids} for call in NAMELESS]
    said = {"index": 0, "message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}
    provider.handlers = [whole({"id": "c", "choices": [said], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})]
    async with ask(world) as response:
        told = (await response.json())["output"]
    assert [call["arguments"] for call in told] == ['{"a":1}', '{"a":2}', "{}"]
    assert len({call["id"] for call in told}) == 3


async def test_calls_without_ids_are_told_apart_by_their_names_and_ends(world: World, provider: Provider):
    """All with the same number: a name begins the next call where another is named, or the one before is whole."""
    pieces = [delta(tool_calls=[call]) for call in NAMELESS]
    torn = [
        called(0, function={"name": "go", "arguments": '{"b":'}),
        called(0, function={"name": "go", "arguments": "3}"}),
    ]
    provider.handlers = [stream(*pieces, *torn, *ending(3, 2))]
    async with ask(world, stream=True) as response:
        told = await events_of(response)
    assert [call["arguments"] for call in told[-1]["response"]["output"]] == ['{"a":1}', '{"a":2}', "{}", '{"b":3}']


async def test_whoever_asks_for_a_summary_gets_the_reasoning_as_one(world: World, provider: Provider):
    """Most clients show nothing else."""
    provider.handlers = [stream(delta(reasoning="Hm."), chunk("Hi"), *ending(3, 2))]
    async with ask(world, stream=True, reasoning={"effort": "low", "summary": "auto"}) as response:
        told = await events_of(response)
    kinds = [event["type"] for event in told if "reasoning" in event["type"]]
    assert kinds == [
        f"response.reasoning_summary_{step}" for step in ("part.added", "text.delta", "text.done", "part.done")
    ]
    assert told[-1]["response"]["output"][0]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert provider.calls[0]["reasoning_effort"] == "low"


@pytest.mark.parametrize(("finish", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_was_cut_is_incomplete(world: World, provider: Provider, finish: str, why: str):
    """It says why, and it is charged."""
    provider.handlers = [stream(chunk("Hi"), chunk(finish=finish), usage_chunk(3, 1), b"data: [DONE]\n\n")]
    async with ask(world, stream=True, max_output_tokens=1) as response:
        told = await events_of(response)
    end = told[-1]
    assert (end["type"], end["response"]["status"]) == ("response.incomplete", "incomplete")
    assert end["response"]["incomplete_details"] == {"reason": why}
    assert end["response"]["output"][0]["status"] == "incomplete"
    assert provider.calls[0]["max_tokens"] == 1
    assert (await world.only_event()).charge_nano_usd == 7000


async def test_an_answer_that_takes_too_long_is_incomplete(world: World, provider: Provider):
    """At the route's total time it ends as if it had reached its limit, charged as delivered."""
    world.truth.total_s = 0.5
    provider.handlers = [stream(chunk("one two three"), asyncio.Event())]
    async with ask(world, stream=True) as response:
        told = await events_of(response)
    assert (told[-1]["type"], told[-1]["response"]["status"]) == ("response.incomplete", "incomplete")
    assert told[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told[-1]["response"]["usage"]["output_tokens"] == 3
    event = await world.only_event()
    assert event.charge_nano_usd == event.tokens.input * 1000 + 3 * 4000


async def test_a_stream_that_fails_says_so_twice_and_costs_nothing(world: World, provider: Provider):
    """Agents see `response.failed` of this response, and SDKs raise at the error that is its last event."""
    provider.handlers = [stream(chunk("Hel"), breaks=True)]
    async with ask(world, stream=True) as response:
        told = await events_of(response)
    failed, error = told[-2:]
    assert failed["type"] == "response.failed"
    assert (failed["response"]["id"], failed["response"]["status"]) == (told[0]["response"]["id"], "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert (error["type"], error["code"], error["error"]["code"]) == ("error", "provider_error", "provider_error")
    assert error["message"] == error["error"]["message"] == failed["response"]["error"]["message"]
    assert (await world.only_event()).charge_nano_usd == 0
    await world.settled()


async def test_the_sdk_raises_when_a_stream_fails(world: World, provider: Provider):
    """With the message, so that nobody takes half an answer for a whole one."""
    provider.handlers = [stream(chunk("Hel"), breaks=True)]
    client = openai.AsyncOpenAI(base_url=f"{world.base_url}/v1", api_key=KEY, max_retries=0)
    told = await client.responses.create(model="fast", input="Hello", stream=True)
    with pytest.raises(openai.APIError, match="provider"):
        [event async for event in told]
    await client.close()


async def test_a_client_that_leaves_pays_what_it_had(world: World, provider: Provider):
    """Cancelled: the text that was delivered is counted, whatever events it came in."""
    world.truth.on_disconnect = "cancel"
    provider.handlers = [stream(chunk("one two three"), asyncio.Event())]
    response = await ask(world, stream=True)
    while b"one two three" not in await response.content.readany():
        continue
    response.close()
    event = await world.only_event()
    assert (event.ended, event.policy) == (usage_pb2.ENDED_CLIENT_GONE, "cancel")
    assert event.tokens.output == 3
    await world.settled()


async def test_a_provider_that_speaks_messages_answers_responses(world: World, provider: Provider):
    """Responses over chat over Messages: thinking, text, a call, and each class of tokens at its price."""
    world.truth.routes[0]["protocol"] = "anthropic"
    usage = {"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 7}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "theirs", "content": [], "usage": usage}
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    events = [
        {"type": "message_start", "message": {**message, "usage": {**usage, "output_tokens": 1}}},
        {"type": "ping"},
        *block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm."}),
        *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"}),
        *block(2, tool, {"type": "input_json_delta", "partial_json": '{"a":1}'}),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": usage},
        {"type": "message_stop"},
    ]
    provider.handlers = [stream(*(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events))]
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    async with ask(world, stream=True, tools=tools, tool_choice="required") as response:
        told = await events_of(response)
    reasoning, said, call = told[-1]["response"]["output"]
    assert reasoning["content"][0]["text"] == "Hm."
    assert said["content"][0]["text"] == "Hi"
    assert (call["call_id"], call["arguments"]) == ("toolu_1", '{"a":1}')
    assert told[-1]["response"]["usage"]["input_tokens_details"] == {"cached_tokens": 4, "cache_write_tokens": 3}
    assert provider.calls[0]["tool_choice"] == {"type": "any"}
    event = await world.only_event()
    assert event.charge_nano_usd == 10 * 1000 + 4 * 100 + 3 * 1000 + 7 * 4000
    await world.settled()


def block(index: int, begun: dict, more: dict) -> list[dict]:
    """The events of one block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": begun},
        {"type": "content_block_delta", "index": index, "delta": more},
        {"type": "content_block_stop", "index": index},
    ]


async def test_an_answer_is_replayed_with_its_ids(world: World, provider: Provider):
    """With an idempotency key the same stream comes again, byte for byte."""
    provider.handlers = [stream(chunk("Hello"), *ending(3, 2))]
    seen = []
    for _ in range(2):
        async with ask(world, stream=True, headers={"idempotency-key": "once"}) as response:
            seen.append(await response.read())
    assert seen[0] == seen[1]
    assert len(provider.calls) == 1
    await until(lambda: len(world.truth.applied) == 1)
