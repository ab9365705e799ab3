"""Every way a request can end, at once, and the auditor finds every nano-dollar in its place."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.at_rest import AT_REST_WITHIN_S, PRICES
from tests.faults.checker import audit, read_log
from tests.faults.seen import Seen
from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, Provider, gateway, provider

ENDINGS: tuple[dict[str, Any], ...] = (
    {"output_tokens": 23, "input_tokens": 40, "cached_tokens": 3, "cache_write_tokens": 2},
    {"output_tokens": 23, "input_tokens": 40, "chunks": 20, "gap_ms": 5},
    {"no_usage": True},
    {"status": 400},  # the client's own fault, which cools nothing
    {"chunks": 20, "gap_ms": 10, "fail_after_chunks": 4},
    {"chunks": 20, "error_after_chunks": 4},
    {"chunks": 9, "gap_ms": 10, "malformed": True},
)
# These cool the provider account, after which requests are refused before they reach anybody, so they come last.
REFUSALS: tuple[dict[str, Any], ...] = ({"status": 500}, {"status": 429, "retry_after": 1})
LEAVING = {"chunks": 40, "gap_ms": 30, "output_tokens": 400, "input_tokens": 300}
"""More than is counted of its words, however late a busy client leaves."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Provider]]:
    """A system of its own, whose every request is in this provider's log."""
    directory: Path = tmp_path_factory.mktemp("audit")
    with provider(directory) as fake, gateway(directory, CONFIG % {"provider": fake.url}) as running:
        yield running, fake


async def ask(
    session: aiohttp.ClientSession,
    account: Account,
    *,
    model: str,
    stream: bool,
    script: dict[str, Any],
    leave_after: int | None = None,
) -> tuple[str, int]:
    """One chat, left after so many pieces; returns its request id and the pieces received."""
    text = "x" * 100 + " #script " + json.dumps(script)
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}
    request_id, seen = "", b""
    url = f"{account.gateway.base_url}/v1/chat/completions"
    with contextlib.suppress(aiohttp.ClientError):
        async with session.post(url, json=body, headers=account.headers) as reply:
            request_id = reply.headers["x-request-id"]
            async for data in reply.content.iter_any():
                seen += data
                if leave_after is not None and seen.count(b"word") >= leave_after:
                    reply.close()
                    break
    return request_id, seen.count(b"word")


async def play(session: aiohttp.ClientSession, account: Account, scripts: tuple[dict[str, Any], ...]) -> None:
    """Each script on each model, streamed and whole, all at once."""
    await asyncio.gather(
        *(
            ask(session, account, model=model, stream=stream, script=script)
            for model in PRICES
            for script in scripts
            for stream in (True, False)
        )
    )


async def test_every_ending_is_charged_as_the_provider_logged_it(rig: tuple[Gateway, Provider]) -> None:
    """Whole, streamed, uncounted, broken, refused and left early, on both protocols and at once: no difference."""
    running, fake = rig
    account = await asyncio.to_thread(running.customer, credit_usd="20")
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16), timeout=timeout) as session:
        left = [
            ask(session, account, model=model, stream=True, script=LEAVING, leave_after=5)
            for model in PRICES
            for _ in range(2)
        ]
        gone, _ = await asyncio.gather(asyncio.gather(*left), play(session, account, ENDINGS))
        await play(session, account, REFUSALS)
    delivered = {request_id: pieces for request_id, pieces in gone if request_id}
    assert len(delivered) == len(left)

    def differences() -> list[str]:
        seen = Seen(delivered=delivered)
        return audit(data_dir=running.data_dir, log=fake.log, prices=PRICES, keys=[account.key], seen=seen)

    deadline = asyncio.get_running_loop().time() + AT_REST_WITHIN_S
    while found := await asyncio.to_thread(differences):
        assert asyncio.get_running_loop().time() < deadline, "\n".join(found)
        await asyncio.sleep(0.5)
    log = await asyncio.to_thread(read_log, fake.log)
    assert {attempt.cut for attempts in log.values() for attempt in attempts} >= {None, "client", "script", "refused"}
    rows = (await asyncio.to_thread(running.admin, "GET", "/admin/requests?limit=200"))["data"]
    assert {row["ended"] for row in rows} >= {"complete", "client_gone", "upstream_failed"}
