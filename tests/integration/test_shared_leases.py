"""Credit that edges hold for many requests: few calls for it, never lost, and there for whoever needs it."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, gateway, provider, wait_until
from tests.patience import promised

ONE = Decimal("0.03")
BODY = {"model": "fixed-chat", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two replicas of edge."""
    directory: Path = tmp_path_factory.mktemp("shared")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}, replicas={"edge": 2}) as running,
    ):
        yield running


async def ask(
    account: Account, count: int, *, edge: str, at_once: int = 0, body: dict[str, Any] = BODY
) -> Counter[int]:
    """So many requests of one edge; how they were answered."""
    gate, statuses = asyncio.Semaphore(at_once or count), Counter[int]()
    connector = aiohttp.TCPConnector(limit=at_once or count)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def one() -> None:
            async with gate, session.post(f"{edge}/v1/chat/completions", json=body, headers=account.headers) as reply:
                statuses[reply.status] += 1
                await reply.read()

        await asyncio.gather(*(one() for _ in range(count)))
    return statuses


def grants(running: Gateway) -> float:
    """How often billing was asked for credit."""
    found = 0.0
    for service in running.ready["services"]:
        if service["name"] == "billing":
            text = httpx.get(f"http://{service['metrics']}/metrics", timeout=5).text
            for family in text_string_to_metric_families(text):
                if family.name == "tollbridge_billing_grants":
                    found += sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
    return found


def answers(edge: str) -> bool:
    """Whether an edge takes requests."""
    try:
        return httpx.get(f"{edge}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False


async def test_a_thousand_requests_of_a_rich_customer_ask_billing_a_few_times(rig: Gateway) -> None:
    """Most are drawn in memory; and when they are over everything is back within ten seconds."""
    account = await asyncio.to_thread(rig.customer, credit_usd="1000")
    before = grants(rig)
    statuses = await ask(account, 1000, edge=rig.edge_urls[0], at_once=32)
    ended_at_s = time.monotonic()
    assert statuses == {200: 1000}
    assert grants(rig) - before < 100
    left = await asyncio.to_thread(account.settled_credits, promised(12))
    assert time.monotonic() - ended_at_s < promised(10.5)
    assert left["balance"] == 1000 - 1000 * ONE
    assert (await asyncio.to_thread(rig.verify))["clean"]


async def test_two_edges_share_a_small_balance_to_the_last_request(rig: Gateway) -> None:
    """What one has free goes to the other within half a second, so that a balance for ten pays for ten."""
    account = await asyncio.to_thread(rig.customer, credit_usd="0.3")
    first, second = rig.edge_urls
    assert await ask(account, 4, edge=first) == {200: 4}
    began_at_s = time.monotonic()
    statuses = await ask(account, 6, edge=second)
    took_s = time.monotonic() - began_at_s
    assert statuses == {200: 6}
    assert took_s < promised(1.5)
    assert await ask(account, 1, edge=first) == {402: 1}
    assert (await asyncio.to_thread(account.settled_credits))["balance"] == 0


async def test_credit_of_a_killed_edge_is_never_taken_for_spent(rig: Gateway) -> None:
    """The other one answers 503 until it is free again, and then 200; 402 only when all of it is spent."""
    account = await asyncio.to_thread(rig.customer, credit_usd="0.6")
    first, second = rig.edge_urls
    assert await ask(account, 8, edge=second) == {200: 8}
    held = wait_until(lambda: account.credits()["held"], timeout_s=20, what="the second edge holds credit")
    os.kill(rig.pid("edge", 1), signal.SIGKILL)
    assert held >= ONE
    served, deadline_s = 0, time.monotonic() + 60
    while served < 12:
        assert time.monotonic() < deadline_s, f"only {served} of 12"
        statuses = await ask(account, 12 - served, edge=first)
        assert set(statuses) <= {200, 503}, statuses
        served += statuses[200]
    assert await ask(account, 1, edge=first) == {402: 1}
    assert (await asyncio.to_thread(account.settled_credits, 60))["balance"] == 0
    # Its credit may be free before its successor listens, which the next test needs.
    await asyncio.to_thread(
        wait_until, lambda: answers(second), timeout_s=60, what="the killed edge's successor answers"
    )


async def test_a_receipt_is_there_as_soon_as_the_answer_is(rig: Gateway) -> None:
    """Unsettled for a moment, at whichever edge it is asked for; never 404."""
    account = await asyncio.to_thread(rig.customer, credit_usd="10")
    script = json.dumps({"chunks": 2, "input_tokens": 9, "output_tokens": 5})
    body = {"model": "alpha-chat", "messages": [{"role": "user", "content": "x" * 20 + " #script " + script}]}
    settled = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        for number in range(10):
            first, other = rig.edge_urls[:: (-1) ** number]
            async with session.post(f"{first}/v1/chat/completions", json=body, headers=account.headers) as reply:
                assert reply.status == 200
                request_id = reply.headers["x-request-id"]
            for edge in (first, other):
                async with session.get(f"{edge}/v1/requests/{request_id}", headers=account.headers) as reply:
                    assert reply.status == 200, await reply.text()
                    settled.append((await reply.json())["settled"])
    assert len(settled) == 20
