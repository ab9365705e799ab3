"""Edge in its small world, new for each test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from cli.schema import migrate
from services.edge import owners
from services.edge.spending import publisher
from tests.unit.edge.web_provider import Provider
from tests.unit.edge.world import World, edge_world


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Billing is asked often, so that no test waits for it; auth is waited for, however busy the machine is."""
    monkeypatch.setattr(publisher, "CONFIRM_EVERY_S", 0.05)
    monkeypatch.setattr(owners, "AUTHORIZE_TIMEOUT_S", 20.0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running edge whose owners, bus and provider live in this process."""
    async with edge_world(tmp_path / "spool") as made:
        yield made


@pytest.fixture
async def provider(world: World) -> AsyncIterator[Provider]:
    """A provider that all of edge's decisions lead to."""
    made = Provider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.serve)
    app.router.add_post("/v1/messages", made.serve)
    app.router.add_post("/v1/messages/count_tokens", made.serve)
    app.router.add_post("/v1/completions", made.serve)
    app.router.add_post("/v1/moderations", made.serve)
    app.router.add_post("/v1/audio/speech", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    world.truth.routes = [{"protocol": "openai", "base_url": made.base_url, "provider": "web"}]
    yield made
    await runner.cleanup()


@pytest.fixture(scope="module")
async def auth_database(postgres_url: str) -> str:
    """A PostgreSQL with auth's schema."""
    await asyncio.to_thread(migrate, postgres_url, service="auth")
    return postgres_url
