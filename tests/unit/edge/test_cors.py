"""Web pages may call the public API from a browser, as far as the config lets them; nothing else is offered to them."""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from chassis.config import ConfigError, read
from chassis.errors import Code, TollbridgeError
from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.config import parse

PAGE = "https://app.example.com"
ASK = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-custom"}


async def hot(scope: Any, receive: Any, send: Callable[[MutableMapping[str, Any]], Awaitable[None]], **_: Any) -> None:
    """A hot route that streams."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"r")]})
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def edge(tmp_path: Path, text: str = "") -> httpx.AsyncClient:
    path = tmp_path / "tollbridge.yaml"
    path.write_text(text or "surfaces: [{prefix: /v1, without: [videos]}]")
    router = APIRouter()

    @router.get("/models")
    async def models() -> None:
        raise TollbridgeError(Code.INVALID_API_KEY, "No key.")

    public, own = new_fastapi(), new_fastapi()
    public.include_router(router)
    own.include_router(router, prefix="/admin")
    app = EdgeApp(
        config=parse(read(path), {}),
        public=public,
        own=own,
        hot={("POST", "/chat/completions"): hot},
        tracer=Tracer(service="edge", replica="0", otlp_endpoint=""),
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/nothing"])
async def test_a_preflight_is_answered_without_a_key(tmp_path: Path, path: str) -> None:
    """On the hot path and on FastAPI's alike; the headers that the page wants to send are named back."""
    async with edge(tmp_path) as client:
        reply = await client.options(path, headers={"origin": PAGE, **ASK})
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-allow-headers"] == "authorization,x-custom"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert int(reply.headers["access-control-max-age"]) > 0
    assert reply.headers["x-request-id"]
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/chat/completions", 200),
        ("GET", "/v1/models", 401),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/videos", 404),
        ("GET", "/v1/chat/completions", 405),
    ],
)
async def test_a_page_may_read_every_answer_and_its_headers(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    """Errors too: a page that can't read why it was refused can't tell its user."""
    async with edge(tmp_path) as client:
        reply = await client.request(method, path, headers={"origin": PAGE})
        without_page = await client.request(method, path)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, "*")
    exposed = reply.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-ratelimit-remaining", "x-ratelimit-reset-tokens"} <= set(exposed)
    assert "access-control-allow-credentials" not in reply.headers
    assert "access-control-allow-origin" not in without_page.headers


@pytest.mark.parametrize(
    ("origins", "origin", "answer"),
    [
        (f"[{PAGE}, 'http://localhost:5173']", PAGE, PAGE),
        (f"[{PAGE}, 'http://localhost:5173']", "http://localhost:5173", "http://localhost:5173"),
        (f"[{PAGE}]", "https://app.example.com.evil.example", None),
        (f"[{PAGE}]", "http://app.example.com", None),
        (f"[{PAGE}]", "null", None),
        ("[]", PAGE, None),
    ],
)
async def test_only_the_configs_origins_are_allowed(
    tmp_path: Path, origins: str, origin: str, answer: str | None
) -> None:
    """A browser keeps the answer from every other page, and caches keep the pages apart."""
    async with edge(tmp_path, f"cors: {{origins: {origins}}}") as client:
        preflight = await client.options("/v1/models", headers={"origin": origin, **ASK})
        reply = await client.get("/v1/models", headers={"origin": origin})
    assert reply.headers.get("access-control-allow-origin") == answer
    assert preflight.headers.get("access-control-allow-origin") == answer
    assert (preflight.status_code == 204) == (answer is not None)
    if answer:
        assert reply.headers["vary"] == preflight.headers["vary"] == "origin"


@pytest.mark.parametrize(("origins", "vary"), [(f"[{PAGE}]", "origin"), ("['*']", None), ("[]", None)])
@pytest.mark.parametrize("headers", [{}, {"origin": "https://other.example"}], ids=["no page", "another page"])
async def test_caches_keep_an_answer_to_nobody_from_pages(
    tmp_path: Path, origins: str, vary: str | None, headers: dict[str, str]
) -> None:
    """Without it, what was answered to a script would be given to a page that may read it, and could not."""
    async with edge(tmp_path, f"cors: {{origins: {origins}}}") as client:
        for path in ("/v1/models", "/v1/nothing"):
            reply = await client.get(path, headers=headers)
            assert reply.headers.get("vary") == vary
            asked = await client.options(path, headers={**headers, **ASK})
            assert asked.headers.get("vary") == (vary if vary or asked.status_code != 204 else None)


async def test_pages_are_never_offered_the_admin_api(tmp_path: Path) -> None:
    """What is outside every surface answers no browser of another origin."""
    async with edge(tmp_path) as client:
        preflight = await client.options("/admin/models", headers={"origin": PAGE, **ASK})
        reply = await client.get("/admin/models", headers={"origin": PAGE})
    assert preflight.status_code == 405
    for answer in (preflight, reply):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_preflight_says_back_no_header_that_could_not_be_one(tmp_path: Path) -> None:
    """What isn't a list of header names is not repeated."""
    async with edge(tmp_path) as client:
        reply = await client.options(
            "/v1/models", headers={"origin": PAGE, **ASK, **{"access-control-request-headers": "a<b>"}}
        )
    assert "<" not in reply.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "origin", ["https://App.example.com", "app.example.com", "https://a.example/", "null", "https://*.a.example"]
)
def test_an_origin_that_no_browser_sends_is_refused(tmp_path: Path, origin: str) -> None:
    """With the key that has it."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(f"cors: {{origins: ['{origin}']}}")
    with pytest.raises(ConfigError) as caught:
        parse(read(path), {})
    assert caught.value.key == "cors.origins[0]"
