"""`make bench [ARGS="--rounds 4 --requests 500 --chunks 100"]`: what the gateway adds to a request, as ratios.

Starts the fake provider, a whole gateway, and beside its edge one that charges nothing (`uncharged`), all as processes,
and sends the same bounded load to each, in rounds whose order turns around each time. Each ratio is the median of the
rounds' own, as the machine's speed drifts. A load goes on for a while before it is measured: what is done for a charge
seconds later weighs on what is measured then, as it does where requests never end. The load generator runs in this
process and shares the cores with all it measures: only the ratios say something, and a change's ratio only beside that
of its parent on the same machine. Rates of single rounds swing by a tenth and more; CPU says the same in fewer rounds,
counted in what load generator and provider, who do the same for everybody, took for a request of the same round.
"""

import argparse
import asyncio
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp

from bench import cpu, uncharged
from tests.integration.offer import CONFIG
from tests.integration.running import gateway, provider

ROUNDS = 10
CHARGES_S = 3.0
"""So long charges follow a request: no longer than each load goes on unmeasured, and than the next one waits."""
CREDIT_USD = "1000"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a load goes, and what it asks for."""

    url: str
    key: str
    model: str
    stream: bool
    text: str

    @property
    def body(self) -> dict[str, object]:
        """One request."""
        messages = [{"role": "user", "content": self.text}]
        return {"model": self.model, "messages": messages, "max_tokens": 16, "stream": self.stream}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round's result."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu: float = 0.0
    """Of the gateway, all its processes, as a multiple of what load generator and provider took."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """Whose CPU is read: the gateway's processes, and the provider's and this one, whose load it is."""

    gateway: list[int]
    provider: int

    def read_s(self) -> tuple[float, float]:
        """So far, of the gateway's and of the others."""
        return cpu.used_s(self.gateway), cpu.used_s([self.provider]) + time.process_time()


async def load(target: Target, *, requests: int, at_once: int, lead_s: float = 0.0) -> Measured:
    """Sends what it can for `lead_s` and then `requests`, which are measured; never more than `at_once` together.

    Raises aiohttp.ClientResponseError for any failure.
    """
    headers = {"authorization": f"Bearer {target.key}"}
    took_s: list[float] = []
    left = iter(range(requests))

    async def send(session: aiohttp.ClientSession) -> None:
        while True:
            began_s = time.perf_counter()
            counts = began_s >= counts_from_s
            if counts and next(left, None) is None:
                return
            async with session.post(target.url, json=target.body, headers=headers) as reply:
                reply.raise_for_status()
                await reply.read()
            if counts:
                took_s.append(time.perf_counter() - began_s)

    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=at_once)) as session:
        counts_from_s = time.perf_counter() + lead_s
        await asyncio.gather(*(send(session) for _ in range(at_once)))
        all_s = time.perf_counter() - counts_from_s
    cuts = statistics.quantiles(took_s, n=100)
    return Measured(requests_per_s=requests / all_s, p50_ms=cuts[49] * 1000, p99_ms=cuts[98] * 1000)


def measured(target: Target, meters: Meters, *, requests: int, at_once: int) -> Measured:
    """One round."""
    asyncio.run(load(target, requests=at_once, at_once=at_once, lead_s=CHARGES_S))
    gateway_s, load_s = meters.read_s()
    found = asyncio.run(load(target, requests=requests, at_once=at_once))
    gateway_then_s, load_then_s = meters.read_s()
    return dataclasses.replace(found, cpu=(gateway_then_s - gateway_s) / (load_then_s - load_s))


def compare(targets: dict[str, Target], meters: Meters, *, rounds: int, requests: int, at_once: int) -> None:
    """Prints each load, and of each ratio the median and all rounds."""
    all_found: dict[str, list[Measured]] = {name: [] for name in targets}
    for target in targets.values():
        # connections, caches, the first lease
        asyncio.run(load(target, requests=at_once * 4, at_once=at_once))
    names = list(targets)
    for _ in range(rounds):
        for name in names:
            found = measured(targets[name], meters, requests=requests, at_once=at_once)
            time.sleep(CHARGES_S if name == "gateway" else 0)
            all_found[name].append(found)
            _show(
                f"{name:9} {found.requests_per_s:8.0f}/s  p50 {found.p50_ms:7.1f} ms  p99 {found.p99_ms:7.1f} ms"
                f"  CPU {found.cpu:5.2f} x load's"
            )
        names.reverse()
    for base, figures in (
        ("direct", ("requests_per_s", "p50_ms", "p99_ms")),
        ("uncharged", ("requests_per_s", "p50_ms", "p99_ms", "cpu")),
    ):
        for figure in figures:
            pairs = zip(all_found["gateway"], all_found[base], strict=True)
            ratios = [getattr(own, figure) / getattr(other, figure) for own, other in pairs]
            each = " ".join(f"{ratio:.2f}" for ratio in ratios)
            _show(f"gateway / {base}, {figure}: {statistics.median(ratios):.3f}, of {each}")


def _show(line: str) -> None:
    print(line, flush=True)  # noqa: T201  a command's result


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench", description="What the gateway adds, as ratios.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=2000, help="measured in each round")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--chunks", type=int, default=0, help="streams of so many pieces; else whole answers")
    parser.add_argument("--gap-ms", type=float, default=0.0, help="how long after one piece comes the next")
    given = parser.parse_args()
    script = {"chunks": given.chunks or 5, "gap_ms": given.gap_ms}
    with tempfile.TemporaryDirectory() as name, provider(Path(name), synced=False) as upstream:
        folder = Path(name)
        with gateway(folder / "gateway", CONFIG % {"provider": upstream.url}) as running:
            account = running.customer(credit_usd=CREDIT_USD)
            with uncharged.start(running.pid("edge"), folder) as (free_url, free_pid):
                path = "/v1/chat/completions"
                own = Target(
                    url=running.base_url + path,
                    key=account.key,
                    model="alpha-chat",
                    stream=given.chunks > 0,
                    text=f"#script {json.dumps(script)}",
                )
                direct = dataclasses.replace(
                    own, url=upstream.url + path, key="canary-alpha-secret", model="upstream-alpha"
                )
                targets = {"direct": direct, "uncharged": dataclasses.replace(own, url=free_url + path), "gateway": own}
                meters = Meters(gateway=[*running.pids, free_pid], provider=upstream.process.pid)
                _show(f"uncharged leaves out: {uncharged.LEFT_OUT}")
                compare(targets, meters, rounds=given.rounds, requests=given.requests, at_once=given.at_once)
            account.settled_credits(timeout_s=60)
            running.verify()
            _show("the books are clean")


if __name__ == "__main__":
    main()
