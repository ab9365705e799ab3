"""With a port of its own for operators, nothing of theirs is on the public one; else all is on one."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter

from chassis.settings import SettingsError, load
from services.edge.app import EdgeApp, new_fastapi
from services.edge.config import without_file
from services.edge.http.uvicorn_server import Ports
from services.edge.settings import Settings
from tests.unit.edge.lonely import OFF, lonely_settings, lonely_site

BEARER = {"authorization": "Bearer admin"}


@pytest.fixture
async def ports() -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Both ports of an edge whose owners are away; the public API is one page."""
    settings = lonely_settings(http_bind="127.0.0.1:0", admin_bind="127.0.0.1:0")
    public, page = new_fastapi(), APIRouter()
    page.add_api_route("/models", lambda: {"data": []})
    public.include_router(page)
    app = EdgeApp(
        config=without_file(), public=public, own=lonely_site(settings), hot={}, tracer=OFF, has_admin_port=True
    )
    http = Ports(settings=settings, app=app, is_leaving=lambda: False)
    serving = asyncio.create_task(http.serve())
    urls = [f"http://{address}" for address in http.addresses]
    async with httpx.AsyncClient(base_url=urls[0]) as first, httpx.AsyncClient(base_url=urls[1]) as second:
        yield first, second
    http.stop(grace_s=1)
    await serving


async def test_what_is_for_operators_is_on_the_admin_port_alone(
    ports: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    """On the public port it isn't even refused for want of a token: it isn't there, in any way of writing it."""
    public, admin = ports
    for path in ("/metrics", "/admin/summary", "/admin", "/admin/", "/%61dmin/summary"):
        hidden = await public.get(path, headers=BEARER)
        assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "not_found")
        assert hidden.headers["x-request-id"]
    assert (await public.head("/metrics")).status_code == 404
    assert (await admin.get("/metrics")).status_code == 200
    assert (await admin.get("/admin/keys")).status_code == 401
    assert (await admin.delete("/admin/keys")).status_code == 405


async def test_customers_have_nothing_on_the_admin_port(ports: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    """So a firewall's rule about the port is a rule about who may do what."""
    public, admin = ports
    assert (await public.get("/v1/models")).status_code == 200
    for path in ("/v1/models", "/v1/chat/completions", "/webhooks/stripe", "/docs", "/"):
        assert (await admin.get(path)).status_code == 404
        assert (await admin.post(path)).status_code == 404


async def test_both_ports_tell_how_edge_is(ports: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    """A load balancer asks the one, a cluster's probes the other."""
    for port in ports:
        for path in ("/livez", "/readyz", "/health"):
            assert (await port.get(path)).status_code == 200


@pytest.mark.parametrize("admin", ["0.0.0.0:8080", ":8080", "127.0.0.1:8080"])
def test_an_admin_port_that_is_the_public_one_is_refused(admin: str) -> None:
    """However it is written: with shared ports the system would let both listen, and give each every second one."""
    with pytest.raises(SettingsError, match="TOLLBRIDGE_ADMIN_BIND"):
        load(Settings, {"TOLLBRIDGE_HTTP_BIND": "0.0.0.0:8080", "TOLLBRIDGE_ADMIN_BIND": admin})


async def test_what_clients_have_not_taken_is_bounded_for_both_ports_together() -> None:
    """The bound is the process's memory, not a port's."""
    settings = Settings(http_bind="127.0.0.1:0", admin_bind="127.0.0.1:0")
    app = EdgeApp(config=without_file(), public=new_fastapi(), own=new_fastapi(), hot={}, tracer=OFF)
    public, admin = Ports(settings=settings, app=app, is_leaving=lambda: False)._servers
    assert public.unread is admin.unread
    for each in (public, admin):
        each._socket.close()
