"""Any one process may die under load, and all of them at once: no finished request is uncharged or charged twice."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.faults import load
from tests.faults.at_rest import audited
from tests.integration.offer import CONFIG, price_usd
from tests.integration.running import Account, Gateway, Provider, gateway, provider, wait_until
from tests.patience import promised

STREAMS = 20
SCRIPT = {"chunks": 30, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)
BACK_WITHIN_S = promised(5.0)
PAUSE_S = 8.0
TRUTHFUL_S = promised(6.0)
"""A refusal because of a silent owner must not take longer."""
VICTIMS = ("edge", "billing", "nats", "postgres")
"""Whom `make test` kills under load; the others die in `tests/integration/test_one_command` too."""
OTHERS = ("auth", "router", "tasks")


def thorough(*victims: str) -> list[Any]:
    """Those that only `make faults` strikes."""
    return [pytest.param(victim, marks=pytest.mark.thorough) for victim in victims]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Provider]]:
    """A system of its own, since parts of it are killed."""
    directory: Path = tmp_path_factory.mktemp("killed")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}) as running,
        audited(running, fake),
    ):
        yield running, fake


async def stream(session: aiohttp.ClientSession, account: Account, begun: asyncio.Semaphore) -> tuple[str, bool]:
    """One slow stream; says which request it was and whether it came to its end. `begun` counts first bytes."""
    body: dict[str, Any] = {
        "model": "alpha-chat",
        "stream": True,
        "messages": [{"role": "user", "content": "x" * 40 + " #script " + json.dumps(SCRIPT)}],
    }
    url = f"{account.gateway.base_url}/v1/chat/completions"
    seen, request_id = b"", ""
    with contextlib.suppress(aiohttp.ClientError):
        async with session.post(url, json=body, headers=account.headers) as reply:
            request_id = reply.headers["x-request-id"]
            assert reply.status == 200, await reply.text()
            async for chunk in reply.content.iter_any():
                if not seen:
                    begun.release()
                seen += chunk
    return request_id, seen.endswith(b"data: [DONE]\n\n")


async def under_load(account: Account, strike: Any) -> list[tuple[str, bool]]:
    """Runs STREAMS streams and calls `strike` once every one of them has begun."""
    begun = asyncio.Semaphore(0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        running = [asyncio.create_task(stream(session, account, begun)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            async with asyncio.timeout(30):
                await begun.acquire()
        await asyncio.to_thread(strike)
        return await asyncio.gather(*running)


def answers_again(account: Account) -> bool:
    """Whether a small request is served."""
    body = {"model": "fixed-chat", "messages": [{"role": "user", "content": "hi"}]}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    with contextlib.suppress(httpx.HTTPError):
        return httpx.post(url, json=body, headers=account.headers, timeout=5).status_code == 200
    return False


def check_books(running: Gateway, account: Account, ended: list[tuple[str, bool]], extra: int) -> None:
    """Finished streams are charged once, broken ones not at all, and the books are clean."""
    finished = [request_id for request_id, complete in ended if complete]
    for request_id, complete in ended:
        receipt = account.receipt(request_id, timeout_s=40)
        assert Decimal(receipt["charge"]) == (PRICE if complete else 0)
    account.charged(PRICE * len(finished) + Decimal("0.03") * extra, timeout_s=60)
    assert running.verify()["clean"]


@pytest.mark.parametrize("victim", [*VICTIMS, *thorough(*OTHERS)])
async def test_a_killed_process_is_back_and_the_books_are_exact(rig: tuple[Gateway, Provider], victim: str) -> None:
    """SIGKILL under 20 streams: served again within 5 s, streams survive all but edge's death, charges are exact."""
    running, _ = rig
    account = await asyncio.to_thread(running.customer, credit_usd="20")
    struck_at = [0.0]

    def strike() -> None:
        os.kill(running.pid(victim), signal.SIGKILL)
        struck_at[0] = time.monotonic()
        wait_until(lambda: answers_again(account), timeout_s=BACK_WITHIN_S, what=f"served again after {victim} died")

    ended = await under_load(account, strike)
    if victim != "edge":
        assert [complete for _, complete in ended] == [True] * STREAMS
    await asyncio.to_thread(check_books, running, account, ended, 1)


@pytest.mark.parametrize("victim", ["router", *thorough("billing", "auth")])
async def test_while_the_only_replica_is_paused_streams_run_on_and_requests_are_refused(
    rig: tuple[Gateway, Provider], victim: str
) -> None:
    """SIGSTOP for 8 s: no stream breaks, what is refused says 503, and all is charged once it goes on.

    Without billing, what fits a lease is served.
    """
    running, _ = rig
    accounts = [await asyncio.to_thread(running.customer, credit_usd="20") for _ in range(2)]
    seen = await load.under_load(accounts, running.paused(victim), for_s=PAUSE_S)
    assert all(each.complete for each in seen[: load.STREAMS])
    assert {(each.status, each.code) for each in seen} <= {(200, ""), (503, "unavailable")}
    assert max(each.took_s for each in seen[load.STREAMS :]) < TRUTHFUL_S
    assert seen[-1].status == 200
    assert victim == "billing" or any(each.status == 503 for each in seen)
    await asyncio.to_thread(load.check_books, accounts, seen)


async def test_everything_killed_at_once_recovers_with_exact_books(rig: tuple[Gateway, Provider]) -> None:
    """SIGKILL of everything under 20 streams: the next start recovers, and the broken streams cost nothing."""
    running, _ = rig
    account = await asyncio.to_thread(running.customer, credit_usd="20")
    finished_before = await asyncio.to_thread(answers_again, account)
    assert finished_before
    ended = await under_load(account, running.kill_everything)
    await asyncio.to_thread(running.start)
    await asyncio.to_thread(check_books, running, account, ended, 1)
