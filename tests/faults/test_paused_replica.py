"""A process may stop without dying: others answer in its stead or say so, and the books stay exact."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.running import CONFIG, Account, Gateway, gateway, price_usd, provider

PAUSE_S = 8.0
STREAMS = 20
ASKERS = 4
TWO = {"edge": 2, "router": 2, "billing": 2, "auth": 2}
SLOW = {"chunks": 60, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}
QUICK = {"chunks": 2, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)
TRUTHFUL_S = 6.0
"""A refusal because of a silent owner must not take longer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What a client saw of one request: `status` 0 when the connection broke; `code` of the error, if any."""

    account: Account
    request_id: str
    status: int
    complete: bool
    code: str
    took_s: float


async def ask(session: aiohttp.ClientSession, account: Account, url: str, *, stream: bool) -> Seen:
    """One chat to its end."""
    script = SLOW if stream else QUICK
    text = "x" * 40 + " #script " + json.dumps(script)
    body: dict[str, Any] = {"model": "alpha-chat", "stream": stream, "messages": [{"role": "user", "content": text}]}
    began_s, request_id, status, content = time.monotonic(), "", 0, b""
    with contextlib.suppress(aiohttp.ClientError):
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=account.headers) as reply:
            request_id, status = reply.headers["x-request-id"], reply.status
            content = await reply.read()
    complete = content.endswith(b"data: [DONE]\n\n") if stream else status == 200
    code = json.loads(content)["error"]["code"] if status not in (0, 200) else ""
    return Seen(
        account=account,
        request_id=request_id,
        status=status,
        complete=complete,
        code=code,
        took_s=time.monotonic() - began_s,
    )


async def under_load(accounts: list[Account], pause: contextlib.AbstractContextManager[None]) -> list[Seen]:
    """Streams that were there before the pause, and short requests all through it and a little after."""
    urls = accounts[0].gateway.edge_urls
    seen: list[Seen] = []
    stop_s = [float("inf")]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def keep_asking(number: int) -> None:
            account = accounts[number % len(accounts)]
            while time.monotonic() < stop_s[0]:
                seen.append(await ask(session, account, urls[number % len(urls)], stream=False))
                await asyncio.sleep(0.1)

        streams = [
            asyncio.create_task(ask(session, accounts[n % len(accounts)], urls[n % len(urls)], stream=True))
            for n in range(STREAMS)
        ]
        askers = [asyncio.create_task(keep_asking(number)) for number in range(ASKERS)]
        await asyncio.sleep(1)
        with pause:
            await asyncio.sleep(PAUSE_S)
        stop_s[0] = time.monotonic() + 3
        await asyncio.gather(*askers)
        seen.append(await ask(session, accounts[0], urls[0], stream=False))
        return [*await asyncio.gather(*streams), *seen]


def check_books(accounts: list[Account], seen: list[Seen]) -> None:
    """What was answered is charged once, what was refused or broken not at all, and the books are clean."""
    for each in seen:
        if each.status == 200:
            assert Decimal(each.account.receipt(each.request_id, timeout_s=40)["charge"]) == (
                PRICE if each.complete else 0
            )
    charged = sum((account.settled_credits(timeout_s=60)["total_usage"] for account in accounts), Decimal(0))
    assert charged == PRICE * sum(each.complete for each in seen)
    assert accounts[0].gateway.verify()["clean"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two replicas of everything that a request asks."""
    directory: Path = tmp_path_factory.mktemp("paused")
    with provider(directory) as fake, gateway(directory, CONFIG % {"provider": fake.url}, replicas=TWO) as running:
        yield running


@pytest.mark.parametrize("victim", ["router", "billing", "auth"])
async def test_while_one_replica_is_paused_the_other_answers(pairs: Gateway, victim: str) -> None:
    """SIGSTOP for 8 s: streams run on, requests are answered or truthfully refused until the silence is noticed."""
    accounts = [await asyncio.to_thread(pairs.customer, credit_usd="20") for _ in range(4)]
    seen = await under_load(accounts, pairs.paused(victim))
    assert all(each.complete for each in seen[:STREAMS])
    assert {(each.status, each.code) for each in seen} <= {(200, ""), (503, "unavailable")}
    assert max(each.took_s for each in seen[STREAMS:]) < TRUTHFUL_S
    assert seen[-1].status == 200
    assert sum(each.complete for each in seen[STREAMS:]) > 20
    await asyncio.to_thread(check_books, accounts, seen)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One replica of each."""
    directory: Path = tmp_path_factory.mktemp("alone")
    with provider(directory) as fake, gateway(directory, CONFIG % {"provider": fake.url}) as running:
        yield running


@pytest.mark.parametrize("victim", ["billing", "router", "auth"])
async def test_while_the_only_replica_is_paused_streams_run_on_and_requests_are_refused(
    single: Gateway, victim: str
) -> None:
    """SIGSTOP for 8 s: no stream breaks, what is refused says 503, and all is charged once it goes on."""
    accounts = [await asyncio.to_thread(single.customer, credit_usd="20") for _ in range(2)]
    seen = await under_load(accounts, single.paused(victim))
    assert all(each.complete for each in seen[:STREAMS])
    assert {(each.status, each.code) for each in seen} <= {(200, ""), (503, "unavailable")}
    assert max(each.took_s for each in seen[STREAMS:]) < TRUTHFUL_S
    assert seen[-1].status == 200
    assert any(each.status == 503 for each in seen)
    await asyncio.to_thread(check_books, accounts, seen)
