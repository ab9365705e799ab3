"""`make bench [ARGS="--requests 500 --at-once 16"]`: what the gateway adds to a request, on this machine, as ratios.

Starts the fake provider and a whole gateway as processes and sends the same bounded load to both, in alternating
rounds. The load generator is plain httpx in this process and shares the machine's cores with all it measures: only the
ratios say something, and a change's ratio only beside that of its parent on the same machine.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.integration.running import CONFIG, gateway, provider

ROUNDS = 3
CREDIT_USD = "1000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a load goes."""

    url: str
    key: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round's result."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


async def load(target: Target, *, requests: int, at_once: int) -> Measured:
    """Sends `requests`, never more than `at_once` together. Raises httpx.HTTPStatusError for any failure."""
    body = {"model": target.model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}
    headers = {"authorization": f"Bearer {target.key}"}
    took_s: list[float] = []
    left = iter(range(requests))

    async def send(client: httpx.AsyncClient) -> None:
        for _ in left:
            began = time.perf_counter()
            reply = await client.post(target.url, json=body, headers=headers)
            reply.raise_for_status()
            took_s.append(time.perf_counter() - began)

    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=at_once)) as client:
        began = time.perf_counter()
        await asyncio.gather(*(send(client) for _ in range(at_once)))
        all_s = time.perf_counter() - began
    cuts = statistics.quantiles(took_s, n=100)
    return Measured(requests_per_s=requests / all_s, p50_ms=cuts[49] * 1000, p99_ms=cuts[98] * 1000)


def compare(direct: Target, through: Target, *, requests: int, at_once: int) -> None:
    """Prints each round and the medians' ratios."""
    rounds: dict[str, list[Measured]] = {"direct": [], "gateway": []}
    for _ in range(ROUNDS):
        for name, target in (("direct", direct), ("gateway", through)):
            found = asyncio.run(load(target, requests=requests, at_once=at_once))
            rounds[name].append(found)
            _show(f"{name:8} {found.requests_per_s:8.0f}/s  p50 {found.p50_ms:7.1f} ms  p99 {found.p99_ms:7.1f} ms")
    for figure in ("requests_per_s", "p50_ms", "p99_ms"):
        medians = {name: statistics.median(getattr(each, figure) for each in found) for name, found in rounds.items()}
        _show(f"gateway / direct, {figure}: {medians['gateway'] / medians['direct']:.2f}")


def _show(line: str) -> None:
    print(line, flush=True)  # noqa: T201  a command's result


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench", description="What the gateway adds, as ratios.")
    parser.add_argument("--requests", type=int, default=500, help="in each round")
    parser.add_argument("--at-once", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, provider(Path(name)) as upstream:
        folder = Path(name)
        with gateway(folder / "gateway", CONFIG % {"provider": upstream.url}) as running:
            account = running.customer(credit_usd=CREDIT_USD)
            direct = Target(
                url=f"{upstream.url}/v1/chat/completions", key="canary-alpha-secret", model="upstream-alpha"
            )
            through = Target(url=f"{running.base_url}/v1/chat/completions", key=account.key, model="alpha-chat")
            compare(direct, through, requests=given.requests, at_once=given.at_once)
            running.verify()
            _show("the books are clean")


if __name__ == "__main__":
    main()
