"""What customers and operators of the mix do besides chatting: they order images, and give credit under a key.

Both insist: what was not answered is asked again under the same key, so that in the end every answer is known.
"""

import asyncio
import dataclasses
import json
import random
import uuid
from collections import Counter
from decimal import Decimal
from typing import Any

import aiohttp

from tests.faults.at_rest import Run
from tests.integration.running import Account

IMAGE_MODEL = "image"
ENDED = ("succeeded", "failed", "cancelled")
INSIST_S = 120.0
CALL_S = 15.0


@dataclasses.dataclass(kw_only=True)
class Painter:
    """A customer who orders images, each under a key, and follows it to its end."""

    run: Run
    account: Account
    dice: random.Random
    session: aiohttp.ClientSession
    seen: Counter[str]

    async def order_until(self, stop: asyncio.Event) -> None:
        """Orders, one image after the other."""
        while not stop.is_set():
            self.seen[await self.order(stop)] += 1
            await asyncio.sleep(self.dice.uniform(0, 0.5))

    async def order(self, stop: asyncio.Event) -> str:
        """One order, repeated until it is known what became of it, or all ends; a word for that."""
        count, leaves_s = self.dice.randint(1, 3), self.dice.choice((0.05, 0.3, CALL_S, CALL_S))
        script: dict[str, Any] = {"first_byte_ms": self.dice.choice((0, 0, 300, 1500))}
        if self.dice.random() < 0.1:
            script["status"] = 400
        body = {"model": IMAGE_MODEL, "n": count, "prompt": f"{self.dice.random()} #script {json.dumps(script)}"}
        headers = {"idempotency-key": str(uuid.UUID(int=self.dice.getrandbits(128)))}
        if self.dice.random() < 0.3:
            headers["prefer"] = "respond-async"
        known = ""
        while True:
            status, answer = await call(
                self.session,
                "POST",
                f"{self.dice.choice(self.run.gateway.edge_urls)}/v1/images/generations",
                headers=self.account.headers | headers,
                body=body,
                timeout_s=leaves_s,
            )
            leaves_s = CALL_S
            if status == 200:
                assert known in ("", answer["task_id"]), f"one key, two tasks: {known} and {answer['task_id']}"
                known = answer["task_id"]
                if answer["data"]:
                    assert len(answer["data"]) == count, f"{known}: {len(answer['data'])} images instead of {count}"
                    self.run.painted[known] = count
                    return "painted"
            elif status in (400, 502):
                return f"image {status}"  # its task has failed, or there is none
            if stop.is_set():
                return "image unknown"
            await asyncio.sleep(0.5)


@dataclasses.dataclass(kw_only=True)
class Banker:
    """An operator who gives credit and takes some back, each time under a key, sent twice and to either edge."""

    run: Run
    accounts: list[Account]
    dice: random.Random
    session: aiohttp.ClientSession
    seen: Counter[str]

    async def give_until(self, stop: asyncio.Event) -> None:
        """Gives, one credit after the other; each is insisted on until it was answered."""
        while not stop.is_set():
            account = self.dice.choice(self.accounts)
            amount = Decimal(self.dice.randint(-300, 2_000)) / 1000 or Decimal(1)
            await self._give(account, amount, key=str(uuid.UUID(int=self.dice.getrandbits(128))))
            self.run.credited[account.key] += amount
            self.seen["credited"] += 1
            await asyncio.sleep(self.dice.uniform(0.1, 1.0))

    async def _give(self, account: Account, amount: Decimal, *, key: str) -> None:
        answers: list[Any] = []
        deadline_s = asyncio.get_running_loop().time() + INSIST_S
        while len(answers) < 2:
            assert asyncio.get_running_loop().time() < deadline_s, "no credit can be given any more"
            both = await asyncio.gather(*(self._post(url, account, amount, key) for url in self.run.gateway.edge_urls))
            answers += [answer for status, answer in both if status == 200]
            if len(answers) < 2:
                await asyncio.sleep(0.5)
        found = {answer["transfer_id"] for answer in answers}
        assert len(found) == 1, f"one key, several transfers: {found}"

    async def _post(self, url: str, account: Account, amount: Decimal, key: str) -> tuple[int, Any]:
        token = self.run.gateway.ready["admin_token"]
        return await call(
            self.session,
            "POST",
            f"{url}/admin/customers/{account.customer_id}/credits",
            headers={"authorization": f"Bearer {token}", "idempotency-key": key},
            body={"amount_usd": str(amount), "reason": "mix"},
            timeout_s=CALL_S,
        )


async def call(
    session: aiohttp.ClientSession, method: str, url: str, *, headers: dict[str, str], body: Any, timeout_s: float
) -> tuple[int, Any]:
    """Status and JSON of one call; status 0 when there was no whole answer in time."""
    try:
        async with asyncio.timeout(timeout_s), session.request(method, url, json=body, headers=headers) as reply:
            return reply.status, await reply.json()
    except (TimeoutError, aiohttp.ClientError, ValueError):
        return 0, None
