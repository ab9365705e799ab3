"""Losing NATS with everything in it is only a delay: the spool is what remembers."""

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import nats
import pytest

from tests.faults.at_rest import audited
from tests.integration.offer import CONFIG, price_usd
from tests.integration.running import Account, Gateway, free_port, gateway, provider, wait_until

STREAMS = 8
SCRIPT = {"chunks": 20, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}
PRICE = price_usd("alpha-chat", input=40, output=30)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A system of its own, since its bus is robbed."""
    directory: Path = tmp_path_factory.mktemp("robbed")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}) as found,
        audited(found, fake),
    ):
        yield found


def stream(account: Account, begun: threading.Semaphore, ids: list[str]) -> None:
    """One stream to its end."""
    text = "x" * 40 + " #script " + json.dumps(SCRIPT)
    body = {"model": "alpha-chat", "stream": True, "messages": [{"role": "user", "content": text}]}
    url, seen = f"{account.gateway.base_url}/v1/chat/completions", b""
    with httpx.stream("POST", url, json=body, headers=account.headers, timeout=60) as reply:
        for part in reply.iter_raw():
            if not seen:
                begun.release()
            seen += part
        assert seen.endswith(b"data: [DONE]\n\n")
        ids.append(reply.headers["x-request-id"])


def waiting_messages(url: str) -> int:
    """Usage messages in the stream that billing has not taken."""

    async def ask() -> int:
        client = await nats.connect(url)
        try:
            return (await client.jetstream().stream_info("USAGE")).state.messages
        finally:
            await client.close()

    return asyncio.run(ask())


def test_every_event_is_charged_once_when_the_whole_bus_is_lost(running: Gateway) -> None:
    """The stream's files are wiped while billing has applied none of what they held."""
    account = running.customer(credit_usd="20")
    begun, ids = threading.Semaphore(0), []
    readers = [threading.Thread(target=stream, args=(account, begun, ids)) for _ in range(STREAMS)]
    for reader in readers:
        reader.start()
    for _ in readers:
        assert begun.acquire(timeout=30)
    billing, bus = running.pid("billing"), running.pid("nats")
    before = waiting_messages(running.ready["nats_url"])
    os.kill(billing, signal.SIGSTOP)
    try:
        for reader in readers:
            reader.join(60)
        assert len(ids) == STREAMS
        published = lambda: waiting_messages(running.ready["nats_url"]) > before  # noqa: E731
        wait_until(published, timeout_s=20, what="the ends are on the bus")
        os.kill(bus, signal.SIGSTOP)
        shutil.rmtree(running.data_dir / "nats" / "store")
        os.kill(bus, signal.SIGKILL)
    finally:
        os.kill(billing, signal.SIGCONT)
    for request_id in ids:
        assert Decimal(account.receipt(request_id, timeout_s=60)["charge"]) == PRICE
    account.charged(PRICE * STREAMS)
    assert running.verify()["clean"]


@pytest.mark.thorough
def test_with_a_bus_that_never_was_there_charges_come_within_ten_seconds(tmp_path: Path) -> None:
    """Nothing listens where NATS should be: billing gets each end by its own RPC after one failed try."""
    with (
        provider(tmp_path) as fake,
        gateway(tmp_path, CONFIG % {"provider": fake.url}, "--nats-url", f"nats://127.0.0.1:{free_port()}") as alone,
    ):
        account = alone.customer(credit_usd="20")
        text = "x" * 40 + " #script " + json.dumps({"input_tokens": 40, "output_tokens": 30})
        body = {"model": "alpha-chat", "messages": [{"role": "user", "content": text}]}
        url = f"{alone.base_url}/v1/chat/completions"
        replies = [httpx.post(url, json=body, headers=account.headers, timeout=30) for _ in range(3)]
        for reply in replies:
            assert reply.status_code == 200, reply.text
            assert Decimal(account.receipt(reply.headers["x-request-id"], timeout_s=10)["charge"]) == PRICE
        account.charged(PRICE * 3)
        assert alone.verify()["clean"]
