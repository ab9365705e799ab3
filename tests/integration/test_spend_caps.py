"""Spend caps over the whole system: what a key or customer may spend is exactly that, however much is asked at once."""

import asyncio
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import aiohttp
import httpx

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway, wait_until

FIXED_USD = Decimal("0.03")
IMAGE_USD = Decimal("0.02")


def capped(account: Account, amount_usd: Decimal | str, per: str = "total") -> Account:
    """The same customer with another key, under a cap."""
    cap = {"amount_usd": str(amount_usd), "per": per}
    made = account.gateway.admin("POST", "/admin/keys", customer_id=account.customer_id, name="capped", spend_cap=cap)
    return Account(gateway=account.gateway, customer_id=account.customer_id, key=made["key"], key_id=made["id"])


def spent_usd(account: Account) -> Decimal:
    """What the key has spent, as its owner sees it."""
    shown = next(row for row in account.get("/keys")["data"] if row["id"] == account.key_id)
    return Decimal(shown["spend_cap"]["spent_usd"])


def chat(account: Account, **body: Any) -> httpx.Response:
    """One chat."""
    body = {"model": "fixed-chat", "messages": [{"role": "user", "content": "hi"}]} | body
    url = f"{account.gateway.base_url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=account.headers, timeout=20)


async def test_of_fifty_at_once_a_cap_for_five_lets_exactly_five_through(system: Gateway) -> None:
    """On a rich customer: five succeed, 45 get 402 spend_cap_reached, and the other key goes on."""
    rich = await asyncio.to_thread(system.customer, credit_usd="100")
    account = await asyncio.to_thread(capped, rich, 5 * FIXED_USD)
    body = {"model": "fixed-chat", "messages": [{"role": "user", "content": "hi"}]}

    async def one(session: aiohttp.ClientSession) -> tuple[int, str]:
        url = f"{system.base_url}/v1/chat/completions"
        async with session.post(url, json=body, headers=account.headers) as reply:
            answer = await reply.json()
            return reply.status, answer.get("error", {}).get("code", "")

    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50), timeout=timeout) as session:
        answers = Counter(await asyncio.gather(*(one(session) for _ in range(50))))
    assert answers == {(200, ""): 5, (402, "spend_cap_reached"): 45}
    left = await asyncio.to_thread(rich.settled_credits)
    assert left["balance"] == 100 - 5 * FIXED_USD
    assert await asyncio.to_thread(spent_usd, account) == 5 * FIXED_USD
    assert (await asyncio.to_thread(chat, rich)).status_code == 200
    assert (await asyncio.to_thread(system.verify))["clean"]


def test_a_customers_cap_binds_all_their_keys_until_it_is_raised_or_taken_away(system: Gateway) -> None:
    """A change holds within two seconds on every replica; a refund makes room again."""
    first = system.customer(credit_usd="10")
    second = capped(first, "10", per="month")
    path = f"/admin/customers/{first.customer_id}"
    system.admin("PATCH", path, spend_cap={"amount_usd": str(2 * FIXED_USD), "per": "month"})
    wait_until(lambda: chat(first).status_code == 402, timeout_s=10, what="the cap holds")
    assert first.settled_credits()["total_usage"] >= 2 * FIXED_USD
    refused = chat(second)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "spend_cap_reached")
    system.admin("PATCH", path, spend_cap=None)
    paid = wait_until(
        lambda: (reply := chat(second)).status_code == 200 and reply, timeout_s=10, what="the cap is gone"
    )
    first.settled_credits()
    before = spent_usd(second)
    system.admin("POST", "/admin/refunds", request_id=paid.headers["x-request-id"], reason="test")
    assert spent_usd(second) == before - FIXED_USD
    assert system.verify()["clean"]


def test_output_is_clamped_to_what_is_left_under_the_cap(system: Gateway) -> None:
    """The header says to how much, and the charge stays under the cap."""
    rich = system.customer(credit_usd="100")
    cap = price_usd("alpha-chat", input=1000, output=200)
    account = capped(rich, cap, per="day")
    script = {"input_tokens": 50, "output_tokens": 20, "chunks": 2}
    content = "hi #script " + json.dumps(script)
    reply = chat(account, model="alpha-chat", messages=[{"role": "user", "content": content}], max_tokens=4000)
    assert reply.status_code == 200, reply.text
    assert 16 <= int(reply.headers["x-tollbridge-max-tokens"]) < 4000
    rich.settled_credits()
    assert spent_usd(account) == price_usd("alpha-chat", input=50, output=20)


def test_images_count_under_the_cap_and_are_refused_beyond_it(system: Gateway) -> None:
    """A task holds its worst case under the cap before it is accepted."""
    rich = system.customer(credit_usd="100")
    account = capped(rich, 2 * IMAGE_USD)

    def order(n: int) -> httpx.Response:
        body = {"model": "sandbox-image", "prompt": "a bridge", "n": n}
        url = f"{system.base_url}/v1/images/generations"
        return httpx.post(url, json=body, headers=account.headers, timeout=70)

    refused = order(3)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "spend_cap_reached")
    assert order(2).status_code == 200
    rich.settled_credits()
    assert spent_usd(account) == 2 * IMAGE_USD
    assert order(1).status_code == 402
