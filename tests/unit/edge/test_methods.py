"""HEAD is GET without the body, a wrong method names the right ones, and every answer has its request id."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from services.edge.app import EdgeApp, new_fastapi
from services.edge.config import without_file
from services.edge.dialects.messages import messages_voice
from services.edge.http.uvicorn_server import HttpServer
from tests.unit.edge.lonely import OFF, lonely_settings, lonely_site


async def answers_nothing(*_: object, **__: object) -> None:
    """A hot route that no request of these tests reaches."""
    raise AssertionError("reached")


class Messages:
    """One that no request reaches either, in Anthropic's words."""

    voice = staticmethod(messages_voice)
    __call__ = staticmethod(answers_nothing)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """Edge's front door on a real port; its owners are away."""
    hot = {("POST", "/chat/completions"): answers_nothing, ("POST", "/messages"): Messages()}
    site = lonely_site(lonely_settings())
    app = EdgeApp(config=without_file(), public=new_fastapi(), own=site, hot=hot, tracer=OFF)
    server = HttpServer(app=app, bind="127.0.0.1:0", grace_s=1)
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://{server.address}") as client:
        yield client
    server.stop()
    await serving


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_head_is_answered_as_get_without_a_body(http: httpx.AsyncClient, path: str):
    """Load balancers and uptime checks ask so."""
    got, head = await http.get(path), await http.head(path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""
    assert got.headers["x-request-id"] != head.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "method"), [("/livez", "GET"), ("/v1/chat/completions", "POST"), ("/admin/keys", "GET, POST")]
)
async def test_a_wrong_method_is_told_the_right_one(http: httpx.AsyncClient, path: str, method: str):
    """RFC 9110 wants `Allow` with every 405."""
    answer = await http.delete(path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == method


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/messages/batches/b_1/results", "/v1/messages/x"])
async def test_what_is_below_messages_is_not_there_in_anthropics_words(http: httpx.AsyncClient, path: str):
    """Its SDKs read the type; elsewhere the surface's words hold."""
    for method in ("GET", "POST"):
        reply = await http.request(method, path)
        assert reply.status_code == 404
        assert (reply.json()["type"], reply.json()["error"]["type"]) == ("error", "not_found_error")
        assert reply.headers["request-id"] == reply.headers["x-request-id"]
    other = await http.get("/v1/messagesandmore")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")


async def test_a_wrong_method_at_messages_is_told_in_anthropics_words(http: httpx.AsyncClient):
    """As everything there."""
    reply = await http.get("/v1/messages")
    assert (reply.status_code, reply.json()["type"], reply.headers["allow"]) == (405, "error", "POST")
