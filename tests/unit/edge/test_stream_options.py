"""Providers that answer 400 to `stream_options` serve streams all the same, and what is charged is counted."""

import dataclasses
import json
from collections.abc import Callable, Coroutine

import pytest
from aiohttp import web

from pricing.prices import PriceVersion, Rates
from services.edge.paid import bare_streams
from services.edge.paid.paid_request import PaidRequest
from tests.unit.edge.test_admission import route
from tests.unit.edge.test_completions import piece
from tests.unit.edge.web_provider import Provider, chunk, stream
from tests.unit.edge.world import World
from tests.unit.edge.world_owners import KEY
from tollbridge.usage.v1 import usage_pb2
from upstream.route import Bounds

CHAT = {"messages": [{"role": "user", "content": "Count to two."}]}
LEGACY = {"prompt": "Count to two."}
ENDPOINTS = {
    "/chat/completions": (CHAT, stream(chunk("one"), chunk(" two"), chunk(finish="stop"), b"data: [DONE]\n\n")),
    "/completions": (LEGACY, stream(piece("one"), piece(" two"), piece("", finish="stop"), b"data: [DONE]\n\n")),
    "/messages": (
        {**CHAT, "max_tokens": 9},
        stream(chunk("one"), chunk(" two"), chunk(finish="stop"), b"data: [DONE]\n\n"),
    ),
    "/responses": (
        {"input": "Count to two."},
        stream(chunk("one"), chunk(" two"), chunk(finish="stop"), b"data: [DONE]\n\n"),
    ),
}
SAYS = [
    {"error": {"message": "Unrecognized request argument supplied: stream_options", "type": "invalid_request_error"}},
    {
        "detail": [
            {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}
        ]
    },
    {"error": {"message": "Unknown parameter.", "type": "invalid_request_error", "param": "stream_options"}},
    {"error": {"message": "Not permitted.", "type": "invalid_request_error", "param": "stream_options.include_usage"}},
]


def strict(
    answer: Callable[[web.Request], Coroutine[None, None, web.StreamResponse]], *, says: object = None, code: int = 400
) -> Callable[[web.Request], Coroutine[None, None, web.StreamResponse]]:
    """A provider that knows no `stream_options`."""

    async def serve(request: web.Request) -> web.StreamResponse:
        if "stream_options" in await request.json():
            return web.json_response(says or SAYS[0], status=code)
        return await answer(request)

    return serve


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_provider_without_stream_options_is_asked_without(world: World, provider: Provider, path: str):
    """With the switch set it never sees the field, whatever the client said, and the charge is counted by us."""
    world.truth.routes[0]["without_stream_options"] = True
    fields, answer = ENDPOINTS[path]
    provider.handlers = [strict(answer)]
    body = {"model": "fast", **fields, "stream": True}
    if path in ("/chat/completions", "/completions"):
        body["stream_options"] = {"include_usage": True}
    async with world.post(body, path=path) as response:
        told = await response.text()
        assert response.status == 200, told
    assert [set(call) & {"stream_options"} for call in provider.calls] == [set()]
    event = await world.only_event()
    assert (event.evidence, event.tokens.output) == (usage_pb2.EVIDENCE_COUNTED, 2)
    assert event.charge_nano_usd == event.tokens.input * 1000 + 2 * 4000
    if "stream_options" in body:
        last = json.loads(told.split("\n\n")[-3][6:])
        assert last["usage"]["completion_tokens"] == 2
        assert last["usage"]["cost"] == event.charge_nano_usd / 1e9
    await world.settled()


@pytest.mark.parametrize(
    ("says", "code"),
    [(SAYS[0], 400), (SAYS[1], 422), (SAYS[2], 400), (SAYS[3], 400)],
    ids=["OpenAI's words", "pydantic's words", "only the param", "a param within it"],
)
async def test_a_provider_that_refuses_stream_options_by_name_is_asked_again(
    world: World, provider: Provider, says: object, code: int
):
    """Nobody has to have read about the switch: the refusal costs one more call, and the client sees its stream."""
    provider.handlers = [strict(ENDPOINTS["/chat/completions"][1], says=says, code=code)]
    async with world.post({"model": "fast", **CHAT, "stream": True}) as response:
        told = await response.text()
        assert response.status == 200, told
    assert ["stream_options" in call for call in provider.calls] == [True, False]
    assert (await world.only_event()).evidence == usage_pb2.EVIDENCE_COUNTED
    await world.settled()


async def test_what_a_client_says_of_its_stream_beyond_usage_is_not_dropped(world: World, provider: Provider):
    """Where the refusal may be about the client's own words, the client is told, and asked nobody twice."""
    provider.handlers = [strict(ENDPOINTS["/chat/completions"][1])]
    body = {"model": "fast", **CHAT, "stream": True, "stream_options": {"include_obfuscation": False}}
    headers = {"authorization": f"Bearer {KEY}"}
    async with world.session.post(f"{world.base_url}/v1/chat/completions", json=body, headers=headers) as response:
        told = await response.json()
    assert (response.status, len(provider.calls)) == (400, 1)
    assert "stream_options" in told["error"]["message"]


async def test_a_refusal_of_stream_options_is_remembered(world: World, provider: Provider):
    """The next streams of that provider and model are asked for without at once; what a client says beyond, is said."""
    provider.handlers = [strict(ENDPOINTS["/chat/completions"][1])]
    for path in ("/chat/completions", "/messages", "/chat/completions"):
        async with world.post({"model": "fast", **ENDPOINTS[path][0], "stream": True}, path=path) as response:
            assert response.status == 200, await response.text()
            await response.read()
    assert ["stream_options" in call for call in provider.calls] == [True, False, False, False]
    own = {"model": "fast", **CHAT, "stream": True, "stream_options": {"include_obfuscation": False}}
    async with world.post(own) as response:
        assert response.status == 400
    assert "stream_options" in provider.calls[-1]
    await world.settled()


async def test_a_remembered_refusal_is_forgotten_after_a_while(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    """Servers are updated."""
    monkeypatch.setattr(bare_streams, "KEPT_S", 0.0)
    provider.handlers = [strict(ENDPOINTS["/chat/completions"][1])]
    for _ in range(2):
        async with world.post({"model": "fast", **CHAT, "stream": True}) as response:
            assert response.status == 200, await response.text()
            await response.read()
    assert ["stream_options" in call for call in provider.calls] == [True, False, True, False]
    await world.settled()


async def test_a_refusal_of_one_request_takes_nobody_elses_usage(world: World, provider: Provider):
    """Who answers others with the field refused it beside something else: else an hour of theirs would be counted."""
    answer = ENDPOINTS["/chat/completions"][1]

    async def serve(request: web.Request) -> web.StreamResponse:
        return await (strict(answer) if "user" in await request.json() else answer)(request)

    provider.handlers = [serve]
    for more in ({}, {"user": "odd"}, {}, {"user": "odd"}):
        async with world.post({"model": "fast", **CHAT, **more, "stream": True}) as response:
            assert response.status == 200, await response.text()
            await response.read()
    assert ["stream_options" in call for call in provider.calls] == [True, True, False, True, True, False]
    await world.settled()


async def test_what_fails_without_stream_options_too_is_not_remembered(world: World, provider: Provider):
    """Then it was not about the field, whatever the words: they may repeat the client's."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "what do you mean by stream_options?"}}, status=400)

    provider.handlers = [refuse]
    for _ in range(2):
        async with world.post({"model": "fast", **CHAT, "stream": True}) as response:
            assert response.status == 400
    assert ["stream_options" in call for call in provider.calls] == [True, False, True, False]


def test_only_so_many_refusals_are_remembered() -> None:
    """Below a wildcard the names of models are the clients' words."""
    known = bare_streams.BareStreams()
    asked = PaidRequest(body=b"{}", fields={}, model="m", stream=True)
    to = route(PriceVersion(rates=Rates(), cost=Rates()), Bounds())
    for number in range(bare_streams.MOST + 1):
        known.refused(dataclasses.replace(to, provider_model=f"m{number}"))
    held = [known.holds(asked, dataclasses.replace(to, provider_model=name)) for name in ("m0", "m1", "other")]
    assert held == [False, True, False]
    assert not known.holds(asked, dataclasses.replace(to, provider_model="m1", provider_id="other"))
