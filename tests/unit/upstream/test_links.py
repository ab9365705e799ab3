"""What an answer links to is fetched from the provider itself or from the public internet, and nowhere else."""

import contextlib
import ipaddress
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.fakes.routes import route_to
from upstream import links
from upstream.client import UpstreamClient
from upstream.outcome import AnswerTooLarge, AttemptFailed, ProviderMisbehaved
from upstream.route import Route

HERE = (ipaddress.ip_network("127.0.0.0/8"),)


def route(base_url: str) -> Route:
    return route_to(base_url)


@contextlib.asynccontextmanager
async def files() -> AsyncIterator[str]:
    """A server of files; `/round` redirects for ever, `/away` to the file."""

    async def file(request: web.Request) -> web.Response:
        assert "authorization" not in request.headers
        return web.Response(body=b"x" * 1000)

    async def away(_: web.Request) -> web.Response:
        raise web.HTTPFound("/file")

    async def around(_: web.Request) -> web.Response:
        raise web.HTTPFound("/round")

    app = web.Application()
    app.add_routes([web.get("/file", file), web.get("/away", away), web.get("/round", around)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[UpstreamClient]:
    running = UpstreamClient()
    await running.start()
    yield running
    await running.close()


async def test_a_link_to_the_provider_itself_is_followed_within_bounds(client: UpstreamClient) -> None:
    """Without the credential; what is too large is left."""
    async with files() as url:
        own = route(f"{url}/v1")
        assert len(await links.fetch(f"{url}/file", own, client=client, max_bytes=1000)) == 1000
        with pytest.raises(AnswerTooLarge):
            await links.fetch(f"{url}/file", own, client=client, max_bytes=999)
        with pytest.raises(ProviderMisbehaved):
            await links.fetch(f"{url}/none", own, client=client, max_bytes=999)


async def test_a_link_to_our_own_network_is_not_followed(client: UpstreamClient) -> None:
    """Whatever it looks like; only https leads anywhere but to the provider."""
    async with files() as url:
        port = url.rpartition(":")[2]
        wrong = (
            f"{url}/file",
            f"https://127.0.0.1:{port}/file",
            f"https://localhost:{port}/file",
            "https://169.254.169.254/latest",
            "https://[::1]/x",
            "http://example.test/x",
            "file:///etc/passwd",
            "data:image/png;base64,AAAA",
            "",
        )
        for link in wrong:
            with pytest.raises(AttemptFailed):
                await links.fetch(link, route("https://provider.test/v1"), client=client, max_bytes=1000)


async def test_redirects_are_followed_a_few_times_each_one_judged() -> None:
    """A public address may not send us home either."""
    async with files() as url:
        assert len(await links._from_elsewhere(f"{url}/away", max_bytes=1000, allowed=HERE)) == 1000
        with pytest.raises(ProviderMisbehaved, match="too often"):
            await links._from_elsewhere(f"{url}/round", max_bytes=1000, allowed=HERE)
        with pytest.raises(AnswerTooLarge):
            await links._from_elsewhere(f"{url}/file", max_bytes=999, allowed=HERE)
