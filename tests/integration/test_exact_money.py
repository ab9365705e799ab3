"""Whatever is asked at once, the balance ends where tokens × price say, to the nano-dollar."""

import asyncio
import json
import random
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import aiohttp

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway, Provider

MIXED_REQUESTS = 300
INSISTS_S = 40.0


async def ask(session: aiohttp.ClientSession, account: Account, body: dict[str, Any]) -> tuple[int, str, bytes]:
    """One chat, sent again as SDKs do when it is refused for now; returns status, request id and the whole body."""
    url = f"{account.gateway.base_url}/v1/chat/completions"
    deadline_s = time.monotonic() + INSISTS_S
    while True:
        async with session.post(url, json=body, headers=account.headers) as reply:
            if reply.status != 503 or time.monotonic() > deadline_s:
                return reply.status, reply.headers["x-request-id"], await reply.read()
        await asyncio.sleep(float(reply.headers["retry-after"]))


async def test_a_balance_for_ten_lets_exactly_ten_of_200_through(system: Gateway) -> None:
    """200 requests at once for a fixed-price model on a balance for 10: 10 succeed, 190 get 402, nothing is left."""
    account = await asyncio.to_thread(system.customer, credit_usd="0.3")
    body = {"model": "fixed-chat", "messages": [{"role": "user", "content": "hi"}]}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200), timeout=timeout) as session:
        answers = await asyncio.gather(*(ask(session, account, body) for _ in range(200)))
    assert Counter(status for status, _, _ in answers) == {200: 10, 402: 190}
    left = await asyncio.to_thread(account.settled_credits)
    assert left["balance"] == 0
    assert left["total_usage"] == Decimal("0.3")


async def test_300_mixed_requests_are_charged_exactly(system: Gateway, fake_provider: Provider) -> None:
    """Cached tokens, streams and both protocols: the sum of charges is the sum of tokens × price."""
    account = await asyncio.to_thread(system.customer, credit_usd="50")
    dice = random.Random(20_26)
    wanted = [mixed_request(dice) for _ in range(MIXED_REQUESTS)]
    gate = asyncio.Semaphore(32)

    async def one(body: dict[str, Any]) -> int:
        async with gate:
            status, _, _ = await ask(session, account, body)
            return status

    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32), timeout=timeout) as session:
        statuses = await asyncio.gather(*(one(body) for body, _ in wanted))
    assert set(statuses) == {200}
    await asyncio.to_thread(account.charged, sum((price for _, price in wanted), Decimal(0)))
    assert (await asyncio.to_thread(system.verify))["clean"]


def mixed_request(dice: random.Random) -> tuple[dict[str, Any], Decimal]:
    """A random request and its price by hand."""
    model = dice.choice(["alpha-chat", "claudius-chat"])
    plain, cached, output = dice.randrange(1, 4000), dice.randrange(0, 2000), dice.randrange(1, 400)
    script = {"input_tokens": plain + cached, "cached_tokens": cached, "output_tokens": output, "chunks": 5}
    if model == "claudius-chat":
        script["input_tokens"] = plain  # Anthropic counts cache reads beside the input
    body: dict[str, Any] = {
        "model": model,
        # the worst case of the input is bounded by its bytes, so the text is as long as the tokens that it claims
        "messages": [{"role": "user", "content": "x" * (plain + cached) + " #script " + json.dumps(script)}],
    }
    if dice.random() < 0.5:
        body["stream"] = True
        if dice.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    return body, price_usd(model, input=plain, cached_input=cached, output=output)
