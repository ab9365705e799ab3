"""Everything is restarted, one process after another, under 50 streams: no request fails, and the books stay exact.

Clients retry nothing. Those of `tollbridge restart` speak to one address and know of no restart, whether there is one
replica of each service or two. Those of processes that are ended from outside stand behind a balancer that asks
`/readyz` twice a second, as they would in a cluster.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.faults.at_rest import audited
from tests.faults.load import Seen, ask, check_books
from tests.integration.offer import CONFIG
from tests.integration.running import ROOT, Account, Gateway, gateway, provider, wait_until
from tests.patience import promised

STREAMERS = 50
ASKERS = 5
ASK_EVERY_S = 0.5
ALL_STREAM_WITHIN_S = 30.0
PROBE_EVERY_S = 0.5
RESTARTED_WITHIN_S = 400.0
BACK_WITHIN_S = promised(60.0)
"""A process that was ended from outside: its streams run out, and its successor starts."""
TWO = {"edge": 2, "auth": 2, "router": 2, "billing": 2}
ONE = dict.fromkeys(TWO, 1)
Choose = Callable[[], str]


@contextlib.contextmanager
def system(directory: Path, replicas: Mapping[str, int]) -> Iterator[Gateway]:
    """A system of its own, audited at the end."""
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}, replicas=replicas) as running,
        audited(running, fake),
    ):
        yield running


@contextlib.asynccontextmanager
async def load_on(accounts: list[Account], choose: Choose) -> AsyncIterator[list[Seen]]:
    """50 streams at any time, and short requests beside them, over connections that are kept; what their clients saw is
    whole at the end of the block."""
    seen: list[Seen] = []
    ends = asyncio.Event()
    begun = [asyncio.Event() for _ in range(STREAMERS)]
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=90), connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def keep_asking(number: int, *, stream: bool, begun: asyncio.Event | None = None) -> None:
            account = accounts[number % len(accounts)]
            while not ends.is_set():
                seen.append(await ask(session, account, choose(), stream=stream, begun=begun))
                if not stream:
                    await asyncio.sleep(ASK_EVERY_S)

        running = [asyncio.create_task(keep_asking(n, stream=True, begun=begun[n])) for n in range(STREAMERS)]
        running += [asyncio.create_task(keep_asking(n, stream=False)) for n in range(ASKERS)]
        try:
            async with asyncio.timeout(ALL_STREAM_WITHIN_S):
                await asyncio.gather(*(each.wait() for each in begun))
            yield seen
        finally:
            ends.set()
            await asyncio.gather(*running)


def check(accounts: list[Account], seen: list[Seen], *, former: dict[tuple[str, int], int]) -> None:
    """No request failed, every process is another one than before, and the charges are exact."""
    failed = [each for each in seen if each.status != 200 or not each.complete]
    assert failed == [], f"{len(failed)} of {len(seen)} failed: {failed[:5]}"
    assert len(seen) > 2 * STREAMERS
    now = pids(accounts[0].gateway)
    assert [place for place in former if now[place] == former[place]] == []
    check_books(accounts, seen)


def pids(running: Gateway) -> dict[tuple[str, int], int]:
    """Who runs which replica of a service."""
    return {
        (each["name"], each["replica"]): each["pid"]
        for each in running.ready["services"]
        if each.get("replica") is not None
    }


def restart(running: Gateway) -> None:
    """`tollbridge restart`, and waits until it is done."""
    command = [sys.executable, "-m", "cli", "restart", "--data-dir", str(running.data_dir)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    wait_until(
        lambda: "rolling restart" in running.log_path.read_text(),
        timeout_s=RESTARTED_WITHIN_S,
        what=f"the restart ends; see {running.log_path}",
    )
    assert "rolling restart done" in running.log_path.read_text(), running.log_path.read_text()[-4000:]


@pytest.mark.thorough
@pytest.mark.parametrize("replicas", [TWO, ONE], ids=["two of each", "one of each"])
async def test_a_rolling_restart_fails_no_request(tmp_path: Path, replicas: Mapping[str, int]) -> None:
    """`tollbridge restart` under 50 streams: each ends whole, none is refused, also where there is no other replica."""
    with system(tmp_path, replicas) as running:
        accounts = [await asyncio.to_thread(running.customer, credit_usd="20") for _ in range(4)]
        urls, former = itertools.cycle(running.edge_urls), pids(running)
        async with load_on(accounts, lambda: next(urls)) as seen:
            await asyncio.to_thread(restart, running)
        await asyncio.to_thread(check, accounts, seen, former=former)


class Balancer:
    """Sends requests to edges that say they are ready; `watch` asks them until it is cancelled.

    Until it has asked, those of `ready` are taken to be, or all.
    """

    def __init__(self, urls: list[str], *, ready: list[str] | None = None) -> None:
        self._urls = urls
        self._ready = list(ready or urls)
        self._turn = itertools.count()

    def choose(self) -> str:
        """Where the next request goes."""
        return self._ready[next(self._turn) % len(self._ready)]

    async def watch(self) -> None:
        """As a balancer's health check does it: one connection a probe."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_EVERY_S * 4)) as session:
            while True:
                answers = await asyncio.gather(*(self._is_ready(session, url) for url in self._urls))
                found = [url for url, ready in zip(self._urls, answers, strict=True) if ready]
                self._ready = found or self._ready
                await asyncio.sleep(PROBE_EVERY_S)

    async def _is_ready(self, session: aiohttp.ClientSession, url: str) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{url}/readyz", headers={"connection": "close"}) as reply:
                return reply.status == 200
        return False


def replace(running: Gateway, name: str, replica: int) -> None:
    """SIGTERM from outside, then waits until its successor, which the supervisor starts, says it is ready."""
    former = running.pid(name, replica)
    os.kill(former, signal.SIGTERM)

    def is_back() -> bool:
        row = next(each for each in running.ready["services"] if (each["name"], each.get("replica")) == (name, replica))
        return row["pid"] != former and _is_ready(row["metrics"])

    wait_until(is_back, timeout_s=BACK_WITHIN_S, what=f"{name} {replica} is back")


def _is_ready(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://{address}/readyz", timeout=2).status_code == 200
    return False


@pytest.mark.thorough
async def test_processes_that_are_ended_one_after_another_fail_no_request(tmp_path: Path) -> None:
    """SIGTERM to each of two replicas of edge, auth, router and billing in turn, under 50 streams behind a balancer."""
    with system(tmp_path, TWO) as running:
        accounts = [await asyncio.to_thread(running.customer, credit_usd="20") for _ in range(4)]
        former = {place: pid for place, pid in pids(running).items() if place[0] in TWO}
        balancer = Balancer(running.edge_urls)
        watching = asyncio.create_task(balancer.watch())
        try:
            async with load_on(accounts, balancer.choose) as seen:
                for name, replica in former:
                    await asyncio.to_thread(replace, running, name, replica)
                    await asyncio.sleep(4 * PROBE_EVERY_S)  # until the balancer has seen that it is back
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await asyncio.to_thread(check, accounts, seen, former=former)
