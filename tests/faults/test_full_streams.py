"""Full streams stop nobody: requests go on, each is charged once, and what waited leaves when there is room."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import httpx
import nats
import pytest
from nats.js import JetStreamContext, api
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.at_rest import audited
from tests.integration.offer import CONFIG, price_usd
from tests.integration.running import ROOT, Account, Gateway, gateway, provider, wait_until

T = TypeVar("T")
REQUESTS = 12
PRICE = price_usd("alpha-chat", input=40, output=30)
SIZE = 16 << 20
PADDING = b"\0" * 1_000_000
STREAMS = ("USAGE", "LEDGER")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A system of its own, with small streams."""
    directory: Path = tmp_path_factory.mktemp("filled")
    sizes: Any = {f"TOLLBRIDGE_{stream}_STREAM_BYTES": str(SIZE) for stream in STREAMS}
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}, **sizes) as found,
        audited(found, fake),
    ):
        yield found


def on_the_bus(running: Gateway, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    """Does it as an operator."""

    async def run() -> T:
        client = await nats.connect(running.ready["nats_url"])
        try:
            return await work(client.jetstream(timeout=20))
        finally:
            await client.close()

    return asyncio.run(run())


async def fill(bus: JetStreamContext) -> None:
    """With what no durable is given, on a subject that the stream has too."""
    for stream in STREAMS:
        for _ in range(SIZE // len(PADDING) + 1):
            await bus.publish(f"tollbridge.{stream.lower()}.v1.padding", PADDING, timeout=20)


async def refuse(bus: JetStreamContext) -> None:
    """As a disk does that is full, and as the code before made its streams; not a byte more goes in."""
    for stream in STREAMS:
        info = await bus.stream_info(stream)
        await bus.update_stream(info.config.evolve(discard=api.DiscardPolicy.NEW, max_bytes=info.state.bytes))


async def kept(bus: JetStreamContext) -> dict[str, tuple[int, int, str | None]]:
    """Of each stream its first message, its bytes, and what it does when it is full."""
    infos = {stream: await bus.stream_info(stream) for stream in STREAMS}
    return {name: (it.state.first_seq, it.state.bytes, it.config.discard) for name, it in infos.items()}


def ask(account: Account) -> list[str]:
    """Some requests, one after another; their ids."""
    text = "x" * 40 + " #script " + json.dumps({"input_tokens": 40, "output_tokens": 30})
    body = {"model": "alpha-chat", "messages": [{"role": "user", "content": text}]}
    url = f"{account.gateway.base_url}/v1/chat/completions"
    replies = [httpx.post(url, json=body, headers=account.headers, timeout=30) for _ in range(REQUESTS)]
    assert [reply.status_code for reply in replies] == [200] * REQUESTS
    return [reply.headers["x-request-id"] for reply in replies]


def figure(running: Gateway, name: str, **labels: str) -> float:
    """What billing's metrics say; 0 where they say nothing."""
    (found,) = (service["metrics"] for service in running.ready["services"] if service["name"] == "billing")
    families = text_string_to_metric_families(httpx.get(f"http://{found}/metrics", timeout=20).text)
    samples = [it for family in families for it in family.samples if it.name == name and it.labels == labels]
    return sum(it.value for it in samples)


def replayed(running: Gateway) -> dict[str, Any]:
    """`ledger replay`."""
    command = [sys.executable, "-m", "cli", "ledger", "replay", "--json", "--data-dir", str(running.data_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def all_left(running: Gateway) -> bool:
    """Whether no transfer waits; a billing that is being started is waited for."""
    with contextlib.suppress(httpx.TransportError):
        return figure(running, "tollbridge_billing_outbox_oldest_seconds") == 0
    return False


def is_full(running: Gateway, stream: str) -> bool:
    return figure(running, "tollbridge_billing_stream_bytes", stream=stream) > 0.8 * SIZE


@pytest.mark.thorough
def test_full_streams_stop_nobody(running: Gateway) -> None:
    """First they drop their oldest; then they refuse, until billing's next start has put that right."""
    account = running.customer(credit_usd="20")
    made = ask(account)
    wait_until(lambda: figure(running, "tollbridge_billing_usage_lag") == 0, timeout_s=20, what="all is applied")
    on_the_bus(running, fill)
    made += ask(account)
    account.charged(PRICE * len(made))
    wait_until(lambda: all_left(running), timeout_s=20, what="every transfer has left")
    for first, size, when_full in on_the_bus(running, kept).values():
        assert first > 1
        assert size <= SIZE
        assert when_full == "old"
    for stream in STREAMS:
        wait_until(lambda stream=stream: is_full(running, stream), timeout_s=20, what=f"the metric of {stream} says so")
        assert figure(running, "tollbridge_billing_stream_max_bytes", stream=stream) == SIZE
        assert 0 < figure(running, "tollbridge_billing_stream_reach_seconds", stream=stream) < 600
        assert figure(running, "tollbridge_billing_stream_max_age_seconds", stream=stream) == 30 * 86_400

    on_the_bus(running, refuse)
    by_rpc = {"method": "BillingService/RecordUsage", "code": "ok"}
    before = figure(running, "tollbridge_rpc_calls_total", **by_rpc)
    made += ask(account)
    account.charged(PRICE * len(made))
    assert figure(running, "tollbridge_rpc_calls_total", **by_rpc) > before
    stands = lambda: figure(running, "tollbridge_billing_outbox_oldest_seconds") > 5  # noqa: E731
    wait_until(stands, timeout_s=30, what="the metric of the outbox says so")

    running.restart("billing")
    wait_until(lambda: all_left(running), timeout_s=60, what="every transfer has left")
    made += ask(account)
    account.charged(PRICE * len(made))
    assert {when_full for *_, when_full in on_the_bus(running, kept).values()} == {"old"}
    assert all(Decimal(account.receipt(request_id)["charge"]) == PRICE for request_id in made)
    assert running.verify()["clean"]
    report = replayed(running)
    assert (report["clean"], report["complete"], report["waiting"]) == (True, False, 0)
    assert report["on_no_stream"] >= REQUESTS
