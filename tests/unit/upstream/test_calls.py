"""One seam for network and sandbox: successes are answers, all else is a classified failure."""

import dataclasses

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fakes.routes import route_to
from upstream.calls import send
from upstream.client import UpstreamClient
from upstream.openai.chat import prepare, read_answer
from upstream.outcome import AttemptFailed, Outcome
from upstream.route import Route, WireProtocol
from upstream.sandbox.provider import Sandbox


def route(protocol: WireProtocol, base_url: str) -> Route:
    return route_to(base_url, protocol=protocol)


async def provider(request: web.Request) -> web.Response:
    body = await request.json()
    if body["messages"] == "refuse":
        return web.json_response({"error": {"message": "wait"}}, status=429, headers={"retry-after": "4"})
    choices = [{"message": {"content": f"for {body['model']}"}, "finish_reason": "stop"}]
    return web.json_response({"id": "g", "choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 2}})


async def test_network_and_sandbox_look_alike() -> None:
    """The same few lines serve both."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    client, sandbox = UpstreamClient(), Sandbox()
    await client.start()
    messages = [{"role": "user", "content": "Hi"}]
    try:
        for at in (route(WireProtocol.OPENAI, str(server.make_url("/v1"))), route(WireProtocol.SANDBOX, "sandbox:")):
            call = prepare({"messages": messages}, at, max_tokens=50, stream=False, request_id="r")
            response = await send(at, call, client=client, sandbox=sandbox)
            read = read_answer(await response.read(10_000), model=at.model)
            assert read.captured.tokens is not None
            refusal = (
                "refuse"
                if at.protocol is WireProtocol.OPENAI
                else [{"role": "user", "content": '#sandbox {"status": 429, "retry_after_s": 4}'}]
            )
            call = prepare({"messages": refusal}, at, max_tokens=50, stream=False, request_id="r")
            with pytest.raises(AttemptFailed) as failed:
                await send(at, call, client=client, sandbox=sandbox)
            assert (failed.value.outcome, failed.value.retry_after_s) == (Outcome.RATE_LIMITED, 4.0)
    finally:
        await client.close()
        await server.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("model theirs-7b is not for `theirs-7b`.", "model public is not for `public`."),
        (
            "not-theirs-7b, theirs-7b-x and a/theirs-7b are others",
            "not-theirs-7b, theirs-7b-x and a/theirs-7b are others",
        ),
    ],
)
async def test_a_refusal_names_our_model(said: str, told: str) -> None:
    """A provider's words about a request are the client's to read; its own name of the model is nobody's business."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": said}}, status=400)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    client = UpstreamClient()
    await client.start()
    at = dataclasses.replace(route(WireProtocol.OPENAI, str(server.make_url("/v1"))), provider_model="theirs-7b")
    try:
        call = prepare({"messages": []}, at, max_tokens=50, stream=False, request_id="r")
        with pytest.raises(AttemptFailed) as failed:
            await send(at, call, client=client, sandbox=Sandbox())
        assert failed.value.message == told
    finally:
        await client.close()
        await server.close()
