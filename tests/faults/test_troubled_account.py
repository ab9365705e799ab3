"""One of two provider accounts is in trouble for a while: clients notice a short wait at most, and it comes back."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.running import ROOT, Account, Gateway, free_port, gateway, wait_until

FIRST_BYTE_S = 2.0
CONFIG = """
surfaces: [{prefix: /v1, dialect: openai}]
providers:%s
models:
  - id: alpha-chat
    max_output: 4096
    category: chat
    context: 128000
    routes:
      - {provider: p1, model: upstream-alpha, cost: {input: 0.27, cached_input: 0.027, output: 1.10}}
      - {provider: p2, model: upstream-alpha, cost: {input: 0.27, cached_input: 0.027, output: 1.10}}
    price: {markup: 1.3}
plans: [{id: enterprise}]
billing: {default_plan: enterprise, welcome_credit: 0}
"""
PROVIDER = """
  - id: p%(id)s
    protocol: openai
    base_url: "http://127.0.0.1:%(port)s/v1"
    timeouts: {connect: 1, first_byte: %(first_byte_s)s, idle: 5, total: 30}
    accounts: [{id: a%(id)s, api_key: key-%(id)s}]"""
TROUBLES: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "retry_after": 1},
    "500": {"status": 500},
    "hangs": {"first_byte_ms": 60_000},
    "refuses": {},
}
PER_S = 30
HEALTHY_S = 5.0
TROUBLED_S = 8.0
BACK_WITHIN_S = 40.0


class Twins:
    """Two providers of one kind, each with its own port, log and process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ports = {number: free_port() for number in (1, 2)}
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        port, log, ready = self.ports[number], self.log(number), self._directory / f"ready-{number}"
        command = [sys.executable, "-m", "tests.fakes.provider", "--port", str(port)]
        self._running[number] = subprocess.Popen([*command, "--log", str(log), "--ready", str(ready)], cwd=ROOT)

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_until(listens, timeout_s=20, what="the provider listens")

    def stop(self, number: int) -> None:
        self._running[number].kill()
        self._running[number].wait(10)

    def log(self, number: int) -> Path:
        return self._directory / f"provider-{number}.jsonl"

    def arrived(self, number: int) -> int:
        """Requests that came to it."""
        return self.log(number).read_text().count('"arrived"')


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Twins]]:
    """Two replicas of edge and of router."""
    directory: Path = tmp_path_factory.mktemp("troubled")
    twins = Twins(directory)
    for number in (1, 2):
        twins.start(number)
    both = "".join(
        PROVIDER % {"id": number, "port": port, "first_byte_s": FIRST_BYTE_S} for number, port in twins.ports.items()
    )
    with gateway(directory, CONFIG % both, replicas={"edge": 2, "router": 2}) as running:
        yield running, twins
    for number in (1, 2):
        twins.stop(number)


async def load(account: Account, script: dict[str, Any], *, seconds: float) -> list[tuple[int, float]]:
    """Chats at a steady pace, by both edges in turn; the status of each and how long it took."""
    text = "x" * 40 + " #script " + json.dumps({"chunks": 2} | script)
    body = {"model": "alpha-chat", "messages": [{"role": "user", "content": text}]}

    async def ask(url: str) -> tuple[int, float]:
        began_s = time.monotonic()
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=account.headers) as reply:
            await reply.read()
            return reply.status, time.monotonic() - began_s

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        asked, began_s = [], time.monotonic()
        for number in range(int(seconds * PER_S)):
            await asyncio.sleep(max(0.0, began_s + number / PER_S - time.monotonic()))
            asked.append(tasks.create_task(ask(account.gateway.edge_urls[number % 2])))
    return [each.result() for each in asked]


def p99_s(seen: list[tuple[int, float]]) -> float:
    return sorted(took_s for _, took_s in seen)[int(len(seen) * 0.99)]


@pytest.mark.thorough
@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_client_sees_the_trouble_of_an_account_and_it_comes_back(rig: tuple[Gateway, Twins], trouble: str) -> None:
    """Every answer comes, the slowest hundredth later by less than a failed attempt may take, and load returns."""
    running, twins = rig
    account = running.customer(credit_usd="10")
    healthy = asyncio.run(load(account, {}, seconds=HEALTHY_S))
    assert {status for status, _ in healthy} == {200}
    if trouble == "refuses":
        twins.stop(1)
    script = {"keys": {"key-1": TROUBLES[trouble]}} if TROUBLES[trouble] else {}
    troubled = asyncio.run(load(account, script, seconds=TROUBLED_S))
    if trouble == "refuses":
        twins.start(1)
    assert {status for status, _ in troubled} == {200}
    added_s = p99_s(troubled) - p99_s(healthy)
    met = sum(took_s >= FIRST_BYTE_S for _, took_s in troubled)
    assert added_s < FIRST_BYTE_S, f"{met} of {len(troubled)} waited in vain"

    def is_back() -> bool:
        before = [twins.arrived(number) for number in (1, 2)]
        assert {status for status, _ in asyncio.run(load(account, {}, seconds=2.0))} == {200}
        ours, others = (twins.arrived(number) - count for number, count in zip((1, 2), before, strict=True))
        return ours > others / 3

    wait_until(is_back, timeout_s=BACK_WITHIN_S, what="the account has its share again")
    running.verify()
