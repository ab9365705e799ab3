"""What a changed config file does to a running edge."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis.telemetry import Tracer
from services.edge.app import EdgeApp, new_fastapi
from services.edge.clients import Clients
from services.edge.parts import load_config
from services.edge.routes.health import DrainSwitch
from services.edge.settings import Settings
from services.edge.site import own_site

PATH = "/admin/metrics"


@contextlib.asynccontextmanager
async def edge(file: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Edge's own pages, following that file; its owners are away."""
    nobody = "127.0.0.1:1"
    settings = Settings(
        config_path=str(file),
        admin_token="of-the-environment",
        service_token="edge:e",
        auth_addresses=nobody,
        router_addresses=nobody,
        billing_addresses=nobody,
        tasks_addresses=nobody,
    )
    configuration = await load_config(settings, structlog.get_logger())
    tracer = Tracer(service="edge", replica="0", otlp_endpoint="")
    clients = Clients(settings=settings, tracer=tracer)
    own = own_site(
        clients=clients,
        admin_token=configuration.admin_token,
        name="machine/0",
        edges=lambda: {},
        registry=CollectorRegistry(),
        drain=DrainSwitch(),
        unready=lambda: None,
        forget=lambda **_: None,
    )
    configuration.app = EdgeApp(config=configuration.current, public=new_fastapi(), own=own, hot={}, tracer=tracer)
    following = asyncio.create_task(configuration.follow())
    transport = httpx.ASGITransport(configuration.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as http:
        yield http
    following.cancel()
    await asyncio.wait({following})


async def status(http: httpx.AsyncClient, token: str) -> int:
    """What the admin API answers to that token."""
    return (await http.get(PATH, headers={"authorization": f"Bearer {token}"})).status_code


async def until_let_in(http: httpx.AsyncClient, token: str) -> None:
    """Returns when the token opens the admin API; fails when it does not for long."""
    deadline = time.monotonic() + 30
    while await status(http, token) != 200:
        assert time.monotonic() < deadline, f"{token} never opened the admin API"
        await asyncio.sleep(0.05)


async def test_a_changed_admin_token_holds_without_a_restart(tmp_path: Path) -> None:
    """The new one opens, the old one doesn't any more; without one in the file the environment's holds."""
    file = tmp_path / "tollbridge.yaml"
    file.write_text("admin: {auth_token: first}\n")
    async with edge(file) as http:
        tokens = ("first", "second", "of-the-environment", "")
        assert [await status(http, token) for token in tokens] == [200, 401, 401, 401]
        file.write_text("admin: {auth_token: second}\n")
        await until_let_in(http, "second")
        assert await status(http, "first") == 401
        file.write_text("admin: {}\n")
        await until_let_in(http, "of-the-environment")
        assert await status(http, "second") == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic first", "first", "Bearer first\u00e9"])
async def test_whatever_is_not_the_admin_token_gets_one_answer(tmp_path: Path, header: str) -> None:
    """401 with the same words, so that nothing can be learned from it."""
    file = tmp_path / "tollbridge.yaml"
    file.write_text("admin: {auth_token: first}\n")
    async with edge(file) as http:
        reply = await http.get(PATH, headers=[(b"authorization", header.encode("latin-1"))])
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (401, "invalid_api_key")
        assert error["message"] == "The admin token is missing or wrong."
