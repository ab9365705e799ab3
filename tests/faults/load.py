"""Streams and short requests while something is wrong, what their clients saw, and what they must have cost."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import aiohttp

from tests.integration.offer import price_usd
from tests.integration.running import Account

STREAMS = 20
ASKERS = 4
ALL_BEGIN_S = 20.0
SLOW = {"chunks": 80, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}
QUICK = {"chunks": 2, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What a client saw of one request: `status` 0 when the connection broke; `code` of the error, if any."""

    account: Account
    request_id: str
    status: int
    complete: bool
    code: str
    took_s: float


async def ask(
    session: aiohttp.ClientSession,
    account: Account,
    url: str,
    *,
    stream: bool = True,
    script: Mapping[str, int] | None = None,
    begun: asyncio.Event | None = None,
) -> Seen:
    """One chat to its end; `begun` is set by the first byte of an answer that is no refusal."""
    script = script or (SLOW if stream else QUICK)
    text = "x" * 40 + " #script " + json.dumps(script)
    body: dict[str, Any] = {"model": "alpha-chat", "stream": stream, "messages": [{"role": "user", "content": text}]}
    began_s, request_id, status, content = time.monotonic(), "", 0, b""
    with contextlib.suppress(aiohttp.ClientError):
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=account.headers) as reply:
            request_id, status = reply.headers.get("x-request-id", ""), reply.status  # a balancer has no id
            async for data in reply.content.iter_any():
                content += data
                if begun is not None and status == 200:
                    begun.set()
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


async def under_load(
    accounts: list[Account], trouble: contextlib.AbstractContextManager[None], *, for_s: float
) -> list[Seen]:
    """Streams that run when the trouble begins, then short requests from before it until a little after; the last one
    is asked when all is over.

    Before the trouble, who is refused asks again, and that is not shown: the account may rest from the test before, or
    the machine be too busy.
    """
    urls = accounts[0].gateway.edge_urls
    seen: list[Seen] = []
    stop_s = [float("inf")]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def insist(number: int, begun: asyncio.Event, *, stream: bool) -> Seen:
            account, url = accounts[number % len(accounts)], urls[number % len(urls)]
            while True:  # bounded by ALL_BEGIN_S
                told = await ask(session, account, url, stream=stream, begun=begun)
                if begun.is_set():
                    return told
                await asyncio.sleep(0.1)

        async def keep_asking(number: int, begun: asyncio.Event) -> None:
            while time.monotonic() < stop_s[0]:
                seen.append(await insist(number, begun, stream=False))
                await asyncio.sleep(0.1)

        begun = [asyncio.Event() for _ in range(STREAMS + ASKERS)]
        streams = [asyncio.create_task(insist(n, begun[n], stream=True)) for n in range(STREAMS)]
        askers = [asyncio.create_task(keep_asking(n, begun[n])) for n in range(STREAMS, STREAMS + ASKERS)]
        async with asyncio.timeout(ALL_BEGIN_S):
            await asyncio.gather(*(each.wait() for each in begun))
        assert not all(each.done() for each in streams)
        with trouble:
            await asyncio.sleep(for_s)
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
    for account in accounts:
        account.charged(PRICE * sum(each.complete for each in seen if each.account is account), timeout_s=60)
    assert accounts[0].gateway.verify()["clean"]
