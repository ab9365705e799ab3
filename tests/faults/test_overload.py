"""Ten times what the machine can serve: memory stays bounded, refusals are quick, and when it ends it is over.

The clients pause for nothing: who is answered or refused asks again at once, on the same connection.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.at_rest import audited
from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, Provider, gateway, provider
from tests.patience import promised

pytestmark = pytest.mark.thorough

FEW, MANY = 32, 1600
CALM_S, FLOOD_S = 4.0, 12.0
RECOVERED_WITHIN_S = promised(5.0)
QUICK_S = promised(2.0)
MOST_GROWTH_BYTES = 400 << 20
BODY = {"model": "alpha-chat", "messages": [{"role": "user", "content": '#script {"chunks": 1}'}]}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Provider]]:
    """A system of its own, since it is overrun."""
    directory: Path = tmp_path_factory.mktemp("overload")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}) as running,
        audited(running, fake),
    ):
        yield running, fake


class Flood:
    """Clients that ask without a pause, and what became of it."""

    def __init__(self, running: Gateway) -> None:
        host, _, port = running.base_url.removeprefix("http://").partition(":")
        self._place = host, int(port)
        self.statuses: Counter[int] = Counter()
        self.seconds: dict[int, list[float]] = {}
        self.without_retry_after = 0
        self.broken = 0

    async def ask(self, accounts: list[Account], *, clients: int, for_s: float) -> None:
        """So many clients, the accounts in turn, for so long."""
        until_s = time.monotonic() + for_s
        asking = [
            asyncio.create_task(self._client(accounts[number % len(accounts)], until_s)) for number in range(clients)
        ]
        await asyncio.wait(asking, timeout=for_s)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _client(self, account: Account, until_s: float) -> None:
        body = json.dumps(BODY).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.key}\r\n"
        request = head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        while time.monotonic() < until_s:
            try:
                await self._converse(request, until_s)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                self.broken += 1
                await asyncio.sleep(0.1)

    async def _converse(self, request: bytes, until_s: float) -> None:
        reader, writer = await asyncio.open_connection(*self._place)
        try:
            while time.monotonic() < until_s:
                began_s = time.monotonic()
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                status = int(head[9:12])
                self.statuses[status] += 1
                self.seconds.setdefault(status, []).append(time.monotonic() - began_s)
                if status in (429, 503) and b"\r\nretry-after: " not in head:
                    self.without_retry_after += 1
                if b"\r\nconnection: close" in head:
                    return
        finally:
            writer.transport.abort()

    def most_s(self, status: int, *, share: float) -> float:
        """So many of them, as a share of 1, took no longer than that."""
        seconds = sorted(self.seconds.get(status, [0.0]))
        return seconds[min(len(seconds) - 1, int(len(seconds) * share))]


def resident_bytes(running: Gateway, name: str) -> int:
    lines = Path(f"/proc/{running.pid(name)}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


async def watch(running: Gateway, most: dict[str, int]) -> None:
    while True:
        for name, bytes_before in most.items():
            most[name] = max(bytes_before, resident_bytes(running, name))
        await asyncio.sleep(0.25)


async def test_an_overload_is_refused_quickly_and_is_over_when_it_ends(
    rig: tuple[Gateway, Provider], record_property: Callable[[str, object], None]
) -> None:
    """Half of the crowd is beyond its own limit (429), the other beyond the machine's (503); then all is as before."""
    running, _ = rig
    rich = running.customer(credit_usd="10000")
    made = running.admin("POST", "/admin/keys", customer_id=rich.customer_id, name="limited", requests_per_minute=60)
    limited = Account(gateway=running, customer_id=rich.customer_id, key=made["key"], key_id=made["id"])

    calm = Flood(running)
    await calm.ask([rich], clients=FEW, for_s=CALM_S)
    assert set(calm.statuses) == {200}
    names = ("edge", "auth", "router", "billing")
    before = {name: resident_bytes(running, name) for name in names}

    flood, most = Flood(running), dict(before)
    watching = asyncio.create_task(watch(running, most))
    await flood.ask([rich, limited], clients=MANY, for_s=FLOOD_S)
    ended_s = time.monotonic()
    watching.cancel()

    after = Flood(running)
    while time.monotonic() < ended_s + RECOVERED_WITHIN_S:
        once = Flood(running)
        await once.ask([rich], clients=1, for_s=0.3)
        if set(once.statuses) == {200} and once.most_s(200, share=1) < 0.5:
            break
    recovered_s = time.monotonic() - ended_s
    await after.ask([rich], clients=FEW, for_s=CALM_S)

    growth = {name: (most[name] - before[name]) >> 20 for name in names}
    slowest = {status: f"{flood.most_s(status, share=0.99):.2f} s" for status in (200, 429, 503)}
    told = (
        f"calm {calm.statuses[200] / CALM_S:.0f}/s; flood {dict(flood.statuses)}, broken {flood.broken}; "
        f"p99 {slowest}; MiB more {growth}; recovered after {recovered_s:.1f} s; then {dict(after.statuses)}"
    )
    record_property("told", told)
    assert set(flood.statuses) <= {200, 429, 503}, told
    assert flood.statuses[200] > 0, told
    assert flood.broken == 0, told
    assert flood.without_retry_after == 0, told
    assert flood.most_s(503, share=0.99) < QUICK_S, told
    assert flood.most_s(429, share=0.99) < QUICK_S, told
    assert all(most[name] - before[name] < MOST_GROWTH_BYTES for name in names), told
    assert recovered_s < RECOVERED_WITHIN_S, told
    assert set(after.statuses) == {200}, told
