"""Networks that cut, swallow and delay: what breaks costs nothing, what waits is charged once, and all recovers."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import aiohttp
import pytest

from tests.conftest import RunningServer
from tests.faults.at_rest import audited
from tests.faults.load import STREAMS, check_books, under_load
from tests.faults.toxic_proxy import ToxicProxy, toxic
from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, gateway, provider

TROUBLE_S = 5.0
RESTED_WITHIN_S = 25.0
"""An account that broke off its answers rests for some seconds, longer each time."""
BROKEN = {"chunks": 100, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rig:
    """A system whose every way out leads through a proxy."""

    gateway: Gateway
    provider: ToxicProxy
    nats: ToxicProxy
    postgres: ToxicProxy


def moved(url: SplitResult, proxy: ToxicProxy) -> str:
    """The same URL, its login included, by way of the proxy."""
    login, at, _ = url.netloc.rpartition("@")
    return url._replace(netloc=f"{login}{at}{proxy.address}").geturl()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, nats_server: RunningServer) -> Iterator[Rig]:
    """Two replicas of edge and router, with a NATS and a database of their own."""
    directory: Path = tmp_path_factory.mktemp("toxic")
    database, bus = urlsplit(postgres_url), urlsplit(nats_server.server.url)
    with (
        provider(directory) as fake,
        toxic(urlsplit(fake.url).netloc) as to_provider,
        toxic(f"{bus.hostname}:{bus.port}") as to_nats,
        toxic(f"{database.hostname}:{database.port}") as to_postgres,
    ):
        arguments = ("--nats-url", moved(bus, to_nats), "--database-url", moved(database, to_postgres))
        config = CONFIG % {"provider": f"http://{to_provider.address}"}
        with (
            gateway(directory, config, *arguments, replicas={"edge": 2, "router": 2}) as running,
            audited(running, fake, lossy=True),
        ):
            yield Rig(gateway=running, provider=to_provider, nats=to_nats, postgres=to_postgres)


@contextlib.contextmanager
def harmed(proxy: ToxicProxy, *, reset: bool = False, **what: Any) -> Iterator[None]:
    """The harm, as a block."""
    proxy.harm(**what)
    if reset:
        proxy.reset_all()
    try:
        yield
    finally:
        proxy.heal()


async def read(
    session: aiohttp.ClientSession, account: Account, url: str, begun: asyncio.Semaphore
) -> tuple[str, bytes]:
    """A long stream to whatever its end is; counts its first byte. An account that rests is waited for."""
    text = "x" * 40 + " #script " + json.dumps(BROKEN)
    body = {"model": "alpha-chat", "stream": True, "messages": [{"role": "user", "content": text}]}
    seen, deadline_s = b"", time.monotonic() + RESTED_WITHIN_S
    while True:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=account.headers) as reply:
            if reply.status == 200:
                async for data in reply.content.iter_any():
                    if not seen:
                        begun.release()
                    seen += data
                return reply.headers["x-request-id"], seen
            refusal = await reply.text()
        assert time.monotonic() < deadline_s, refusal
        await asyncio.sleep(0.1)


@pytest.mark.thorough
async def test_a_slow_provider_changes_no_charge(rig: Rig) -> None:
    """Half a second more on every read: the same answers at the same price."""
    accounts = [await asyncio.to_thread(rig.gateway.customer, credit_usd="20")]
    seen = await under_load(accounts, harmed(rig.provider, latency_s=0.5), for_s=2)
    assert all(each.complete for each in seen)
    await asyncio.to_thread(check_books, accounts, seen)


async def test_a_provider_connection_reset_in_mid_stream_costs_nothing(rig: Rig) -> None:
    """Twenty streams lose their provider at once: each ends with an error, not with its end mark, and charge 0."""
    account = await asyncio.to_thread(rig.gateway.customer, credit_usd="20")
    begun, urls = asyncio.Semaphore(0), rig.gateway.edge_urls
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        streams = [asyncio.create_task(read(session, account, urls[n % 2], begun)) for n in range(STREAMS)]
        for _ in streams:
            async with asyncio.timeout(30):
                await begun.acquire()
        await asyncio.to_thread(rig.provider.reset_all)
        ended = await asyncio.gather(*streams)
    for request_id, seen in ended:
        assert b'"error"' in seen
        assert b"[DONE]" not in seen
        receipt = await asyncio.to_thread(account.receipt, request_id)
        assert (Decimal(receipt["charge"]), receipt["ended"]) == (0, "upstream_failed")
    await asyncio.to_thread(account.charged, 0)
    await asyncio.to_thread(rig.gateway.verify)


async def test_a_provider_cut_after_some_bytes_costs_nothing(rig: Rig) -> None:
    """An answer that ends early, without its end mark, is no answer, wherever the cut falls."""
    account = await asyncio.to_thread(rig.gateway.customer, credit_usd="20")
    begun, urls = asyncio.Semaphore(0), rig.gateway.edge_urls
    await asyncio.to_thread(rig.provider.reset_all)  # kept-alive connections have counted bytes already
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        with harmed(rig.provider, cut_after_bytes=3001):
            ended = await asyncio.gather(*(read(session, account, urls[n % 2], begun) for n in range(6)))
    for request_id, seen in ended:
        assert b'"error"' in seen
        assert Decimal((await asyncio.to_thread(account.receipt, request_id))["charge"]) == 0
    await asyncio.to_thread(account.charged, 0)


@pytest.mark.thorough
async def test_postgres_in_a_black_hole_refuses_and_recovers(rig: Rig) -> None:
    """Five seconds without an answer from PostgreSQL: streams run on, requests get 503, then all is charged once."""
    accounts = [await asyncio.to_thread(rig.gateway.customer, credit_usd="20") for _ in range(2)]
    seen = await under_load(accounts, harmed(rig.postgres, blackhole=True), for_s=TROUBLE_S)
    assert [each for each in seen[:STREAMS] if not each.complete] == []
    assert {(each.status, each.code) for each in seen} <= {(200, ""), (503, "unavailable")}
    assert any(each.status == 503 for each in seen)
    assert seen[-1].status == 200
    await asyncio.to_thread(check_books, accounts, seen)


@pytest.mark.thorough
async def test_postgres_cut_off_refuses_and_recovers(rig: Rig) -> None:
    """Five seconds in which every connection to PostgreSQL is reset: the same."""
    accounts = [await asyncio.to_thread(rig.gateway.customer, credit_usd="20") for _ in range(2)]
    seen = await under_load(accounts, harmed(rig.postgres, reset=True, refuse=True), for_s=TROUBLE_S)
    assert [each for each in seen[:STREAMS] if not each.complete] == []
    assert {(each.status, each.code) for each in seen} <= {(200, ""), (503, "unavailable")}
    assert seen[-1].status == 200
    await asyncio.to_thread(check_books, accounts, seen)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["cut", "black hole"])
async def test_without_nats_all_is_served_and_charged_later_once(rig: Rig, how: str) -> None:
    """Five seconds without the bus: nobody notices, and each request is charged exactly once when it is back."""
    accounts = [await asyncio.to_thread(rig.gateway.customer, credit_usd="20") for _ in range(2)]
    harm = {"reset": True, "refuse": True} if how == "cut" else {"blackhole": True}
    seen = await under_load(accounts, harmed(rig.nats, **harm), for_s=TROUBLE_S)
    assert all(each.complete for each in seen)
    await asyncio.to_thread(check_books, accounts, seen)


@pytest.mark.thorough
@pytest.mark.parametrize("which", ["nats", "postgres"])
async def test_slow_ways_to_bus_and_database_change_no_charge(rig: Rig, which: str) -> None:
    """A fifth of a second more on every read for three seconds: all is answered, and charged once."""
    accounts = [await asyncio.to_thread(rig.gateway.customer, credit_usd="20") for _ in range(2)]
    slow = rig.nats if which == "nats" else rig.postgres
    seen = await under_load(accounts, harmed(slow, latency_s=0.2), for_s=3)
    assert [each for each in seen[:STREAMS] if not each.complete] == []
    assert {(each.status, each.code) for each in seen} <= {(200, ""), (503, "unavailable")}
    assert sum(each.complete for each in seen[STREAMS:]) > 5
    assert seen[-1].status == 200
    await asyncio.to_thread(check_books, accounts, seen)
