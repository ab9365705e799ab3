"""`POST /messages/count_tokens`: free, by the provider where it is Anthropic's, else by our own count."""

import asyncio
import json
from typing import Any

import pytest

from services.edge.paid.prompt import count_prompt
from services.edge.routes import count_tokens as route
from tests.unit.edge.test_messages import ask, asking, whole
from tests.unit.edge.web_provider import Provider, status, stream
from tests.unit.edge.world import World, until
from tests.unit.edge.world_owners import CUSTOMER, KEY
from tollbridge.auth.v1 import auth_pb2
from upstream.usage import count_tokens


def count(world: World, body: dict[str, Any], **headers: str):
    given = {"authorization": f"Bearer {KEY}", **headers}
    return world.session.post(f"{world.base_url}/v1/messages/count_tokens", data=json.dumps(body), headers=given)


def prompt(**fields: Any) -> dict[str, Any]:
    made = asking(**fields)
    del made["max_tokens"]
    return made


async def test_a_provider_that_can_count_is_asked(world: World, provider: Provider):
    """Its count is the answer; nothing is held, nothing is charged, and the slot is given back without a verdict."""
    world.truth.routes[0]["protocol"] = "anthropic"
    provider.handlers = [whole({"input_tokens": 4321})]
    body = prompt(system="Be brief.", tools=[{"name": "f", "input_schema": {"type": "object"}}])
    async with count(world, body) as response:
        assert (response.status, await response.json()) == (200, {"input_tokens": 4321})
        assert response.headers["request-id"]
    assert provider.calls == [{**body, "model": "sandbox-1"}]
    await until(lambda: len(world.truth.finished) == 1)
    assert not world.truth.asked
    assert not world.truth.applied


@pytest.mark.parametrize("answer", [status(404), status(500), status(429), whole({"input_tokens": -1}), whole({})])
async def test_where_the_provider_gives_no_count_we_count(world: World, provider: Provider, answer: Any):
    """An answer comes all the same."""
    world.truth.routes[0]["protocol"] = "anthropic"
    provider.handlers = [answer]
    async with count(world, prompt()) as response:
        assert response.status == 200
        assert 0 < (await response.json())["input_tokens"] < 20


async def test_what_the_provider_would_not_read_is_refused(world: World, provider: Provider):
    """Its 400 is the client's."""
    world.truth.routes[0]["protocol"] = "anthropic"
    provider.handlers = [status(400, "too many images")]
    async with count(world, prompt()) as response:
        assert response.status == 400
        assert (await response.json())["error"] == {"type": "invalid_request_error", "message": "too many images"}


async def test_elsewhere_it_is_what_a_request_without_usage_is_charged_by(world: World):
    """The same count, so that the two never disagree."""
    text = 'Hello there #sandbox {"usage": false, "output_tokens": 1}'
    said = [{"role": "user", "content": text}]
    async with count(world, prompt(messages=said, system="Be brief.")) as response:
        counted = (await response.json())["input_tokens"]
    async with ask(world, asking(messages=said, system="Be brief.")) as response:
        assert (await response.json())["usage"]["input_tokens"] == counted


async def test_without_a_key_or_a_model_nothing_is_counted(world: World):
    """In Anthropic's words, as its neighbour."""
    for body, headers, code, kind in (
        (prompt(), {"authorization": "Bearer wrong"}, 401, "authentication_error"),
        (prompt(model="nope"), {}, 404, "not_found_error"),
        ({"model": "fast"}, {}, 400, "invalid_request_error"),
        (prompt(messages="x"), {}, 400, "invalid_request_error"),
    ):
        async with count(world, body, **headers) as response:
            assert (response.status, (await response.json())["error"]["type"]) == (code, kind)


def test_all_that_the_model_reads_is_counted() -> None:
    """System, calls, results, documents and search results; a picture's bytes are not."""
    words = "one two three four five six seven eight nine ten"
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4000}}
    blocks: list[dict[str, Any]] = [
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": words}},
        {"type": "tool_result", "tool_use_id": "t", "content": words},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": words}, picture]},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": words}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": words}]}},
        {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": words}]},
        {"type": "thinking", "thinking": words, "signature": "s"},
    ]
    each = count_tokens(words, "gpt-4o")
    for system in (words, [{"type": "text", "text": words}]):
        body = {"system": system, "messages": [{"role": "user", "content": blocks}]}
        counted = count_prompt(json.dumps(body).encode(), "gpt-4o")
        assert 8 * each <= counted <= 8 * each + 40


@pytest.mark.parametrize("path", ["messages", "messages/count_tokens"])
async def test_marks_for_a_cache_that_reach_nobody_cost_nobody(world: World, provider: Provider, path: str):
    """An hour's cache is refused where nothing prices it; chat has no such mark, so there is nothing to refuse."""
    lasting = {"type": "ephemeral", "ttl": "1h"}
    body = asking(system=[{"type": "text", "text": "Be brief.", "cache_control": lasting}])
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    provider.handlers = [whole({"id": "c1", "choices": [choice]})]
    headers = {"authorization": f"Bearer {KEY}"}
    async with world.session.post(f"{world.base_url}/v1/{path}", data=json.dumps(body), headers=headers) as response:
        assert response.status == 200, await response.text()
    world.truth.routes[0]["protocol"] = "anthropic"
    async with world.session.post(f"{world.base_url}/v1/{path}", data=json.dumps(body), headers=headers) as response:
        assert response.status == 400


async def test_nobody_is_counted_for_who_has_left(world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch):
    """The provider's answer is not waited for, we don't count in its place, and the slot comes back."""
    counted: list[object] = []

    async def own_count(*_: object) -> int:
        counted.append(1)
        return 1

    monkeypatch.setattr(route, "own_count", own_count)
    world.truth.routes[0]["protocol"] = "anthropic"
    provider.handlers = [stream(asyncio.Event())]

    async def ask() -> None:
        async with count(world, prompt()):
            raise AssertionError("answered")

    asking = asyncio.create_task(ask())
    await until(lambda: bool(provider.calls))
    asking.cancel()
    await until(lambda: len(world.truth.finished) == 1)
    await until(lambda: provider.disconnects == 1)
    assert not counted


async def test_who_has_limits_is_told_what_is_left_and_uses_nothing_up(world: World, provider: Provider):
    """In answers and in refusals, but not to a wrong key."""
    world.truth.limits = auth_pb2.Limits(requests_per_minute=3)
    for body, expected in ((prompt(), 200), ({"model": "fast"}, 400), (prompt(), 200)):
        async with count(world, body) as response:
            assert response.status == expected
            assert response.headers["x-ratelimit-limit"] == "3"
            assert "x-ratelimit-remaining" in response.headers
    async with count(world, prompt(), authorization="Bearer wrong") as response:
        assert response.status == 401
        assert "x-ratelimit-limit" not in response.headers
    assert world.owners.limits.counted(CUSTOMER, auth_pb2.LIMIT_KIND_REQUESTS) == 0
