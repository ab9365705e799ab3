"""An edge dies while it runs a request with an idempotency key: sent again, it is answered whole and charged once."""

import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import aiohttp
import httpx
import psycopg
import pytest

from tests.integration.offer import CONFIG, price_usd
from tests.integration.running import Account, Gateway, gateway, provider, wait_until

SCRIPT = {"chunks": 20, "gap_ms": 50, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)
MOMENTS_S = (0.3, 0.98, 1.02, 1.06)
"""When edge is killed after the first byte: in the middle, and around the end, which comes after a second."""
QUICK_S = MOMENTS_S[:2]
"""What `make test` tries."""
END = b"data: [DONE]\n\n"
CLAIM = "SELECT answered FROM billing.idempotency_claims WHERE key = %s"
ENDING = """
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%SET answered = true%'
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A system of its own, since its edges are killed."""
    directory: Path = tmp_path_factory.mktemp("repeated")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}, replicas={"edge": 2}) as made,
    ):
        yield made


def order(account: Account, key: str) -> dict:
    text = "x" * 40 + " #script " + json.dumps(SCRIPT)
    body = {"model": "alpha-chat", "stream": True, "messages": [{"role": "user", "content": text}]}
    headers = {**account.headers, "content-type": "application/json", "idempotency-key": key}
    return {"data": json.dumps(body).encode(), "headers": headers}


async def struck(running: Gateway, account: Account, key: str, *, after_s: float) -> bytes:
    """Sends the order to edge 0, which is killed so long after its first byte; what came of it."""
    seen = b""
    url = f"{running.edge_urls[0]}/v1/chat/completions"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(url, **order(account, key)) as reply:
                assert reply.status == 200, await reply.text()
                loop = asyncio.get_running_loop()
                loop.call_later(after_s, os.kill, running.pid("edge", 0), signal.SIGKILL)
                async for chunk in reply.content.iter_any():
                    seen += chunk
    return seen


def insisted(url: str, account: Account, key: str, *, within_s: float = 60) -> httpx.Response:
    """Sends the order again until it is neither running nor refused for now."""
    sent = order(account, key)
    sent["content"] = sent.pop("data")
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.HTTPError):
            reply = httpx.post(f"{url}/v1/chat/completions", timeout=30, **sent)
            if reply.status_code not in (409, 503):
                return reply
        assert time.monotonic() < deadline, "nobody answers for the dead edge"
        time.sleep(0.1)


def charged(account: Account, request_id: str) -> None:
    """Waits for the charge, which may follow the void that the dead edge left."""

    def paid() -> bool:
        return Decimal(account.receipt(request_id)["charge"]) == PRICE

    wait_until(paid, timeout_s=40, what=f"{request_id} is charged {PRICE}")


@pytest.mark.parametrize(
    ("heir", "moments_s"),
    [(0, QUICK_S), *(pytest.param(heir, MOMENTS_S, marks=pytest.mark.thorough) for heir in (0, 1))],
    ids=["successor, quick", "successor", "sibling"],
)
async def test_an_order_whose_edge_was_killed_is_answered_whole_and_charged_once(
    running: Gateway, heir: int, moments_s: tuple[float, ...]
):
    """By its successor or by its sibling, whenever it was killed."""
    account = await asyncio.to_thread(running.customer, credit_usd="5")
    for after_s in moments_s:
        key = str(uuid.uuid4())
        first = await struck(running, account, key, after_s=after_s)
        reply = await asyncio.to_thread(insisted, running.edge_urls[heir], account, key)
        assert reply.status_code == 200, reply.text
        assert reply.content.endswith(END)
        if first.endswith(END):
            assert reply.content == first
        again = await asyncio.to_thread(insisted, running.edge_urls[heir], account, key)
        assert again.content == reply.content
        assert again.headers["x-request-id"] == reply.headers["x-request-id"]
        await asyncio.to_thread(charged, account, reply.headers["x-request-id"])
    left = await asyncio.to_thread(account.settled_credits, 60)
    assert left["total_usage"] == PRICE * len(moments_s)
    assert left["balance"] == 5 - left["total_usage"]
    assert (await asyncio.to_thread(running.verify))["clean"]


def pending(running: Gateway, replica: int) -> float:
    """Events of that edge that billing has not confirmed."""
    found = [each for each in running.ready["services"] if (each["name"], each.get("replica")) == ("edge", replica)]
    for line in httpx.get(f"http://{found[0]['metrics']}/metrics", timeout=10).text.splitlines():
        if line.startswith("tollbridge_events_pending "):
            return float(line.split()[1])
    raise AssertionError("it tells no figure")


@contextlib.contextmanager
def unattended(running: Gateway) -> Iterator[None]:
    """Nobody starts again what dies."""
    assert running._process is not None
    running._process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running._process.send_signal(signal.SIGCONT)


@pytest.mark.thorough
def test_a_kept_answer_is_charged_whose_edge_died_before_it_wrote_down_its_end(running: Gateway):
    """The sibling that gives it out has just made a void of the beginning in the dead edge's spool."""
    account, key = running.customer(credit_usd="5"), str(uuid.uuid4())
    sent = order(account, key)
    sent["content"] = sent.pop("data")
    url, database = running.edge_urls[0], running.ready["database_url"]
    wait_until(lambda: pending(running, 1) == 0, timeout_s=30, what="all that was is confirmed")

    def strike() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{url}/v1/chat/completions", timeout=60, **sent)

    with (
        ThreadPoolExecutor(1) as aside,
        psycopg.connect(database, autocommit=True) as looking,
        psycopg.connect(database) as holding,
    ):
        first = aside.submit(strike)
        locked = f"{CLAIM} FOR UPDATE"
        wait_until(lambda: holding.execute(locked, (key,)).fetchone(), timeout_s=30, what="the key is claimed")
        wait_until(lambda: looking.execute(ENDING).fetchone() is not None, timeout_s=30, what="its answer is kept")
        struck_pid = running.pid("edge", 0)
        os.kill(struck_pid, signal.SIGSTOP)
        holding.rollback()  # the claim ends, and edge 0 does not learn of it
        wait_until(lambda: looking.execute(CLAIM, (key,)).fetchone() == (True,), timeout_s=30, what="the claim ends")
        holding.execute("LOCK TABLE billing.usage_events IN SHARE MODE")  # billing applies nothing
        with unattended(running):
            os.kill(struck_pid, signal.SIGKILL)
            first.result(30)
            wait_until(lambda: pending(running, 1) > 0, timeout_s=30, what="the sibling replays its spool")
            reply = insisted(running.edge_urls[1], account, key)
            holding.rollback()
    assert reply.content.endswith(END)
    charged(account, reply.headers["x-request-id"])
    left = account.settled_credits(60)
    assert left["total_usage"] == PRICE
    assert running.verify()["clean"]
