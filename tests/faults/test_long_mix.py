"""The long mix: everything at once, at random, by a seed; in the end every nano-dollar is where it belongs.

`make test` runs a short, known slice; `make faults ARGS="--minutes 20 --seed 7"` a long one. The seed is printed.
"""

import asyncio
import dataclasses
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest

from tests.conftest import RunningServer
from tests.faults import errands, mix
from tests.faults.at_rest import Run
from tests.faults.strikes import Striker
from tests.faults.test_toxic_network import moved
from tests.faults.toxic_proxy import ToxicProxy, toxic
from tests.integration.running import Gateway, gateway, provider, wait_until

CLIENTS = 16
ACCOUNTS = 4
PAINTERS = 2
POOR_USD = "0.75"
"""Pays for twenty-five at the fixed price, and not for a twenty-sixth."""
AT_REST = re.compile(r"^tollbridge_(requests_in_flight|events_pending) (\S+)$", re.MULTILINE)
HEALED_WITHIN_S = 90.0
AUDIT_S_PER_MINUTE = 20.0
"""A long mix leaves many receipts to read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A run, and what of it can be struck beside its services."""

    run: Run
    networks: dict[str, ToxicProxy]
    servers: dict[str, RunningServer]


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    postgres_server: RunningServer,
    nats_server: RunningServer,
) -> Iterator[Stage]:
    """Two edges and two routers whose every way out leads through a proxy."""
    directory: Path = tmp_path_factory.mktemp("mix")
    database, bus = urlsplit(postgres_url), urlsplit(nats_server.server.url)
    with (
        provider(directory) as fake,
        toxic(urlsplit(fake.url).netloc) as to_provider,
        toxic(f"{bus.hostname}:{bus.port}") as to_nats,
        toxic(f"{database.hostname}:{database.port}") as to_postgres,
    ):
        arguments = ("--nats-url", moved(bus, to_nats), "--database-url", moved(database, to_postgres))
        text = mix.config(f"http://{to_provider.address}")
        with gateway(directory, text, *arguments, replicas={"edge": 2, "router": 2}) as running:
            run = Run(gateway=running, provider=fake, prices=mix.PRICES, lossy=True)
            toxics = {"provider": to_provider, "nats": to_nats, "postgres": to_postgres}
            yield Stage(run=run, networks=toxics, servers={"postgres": postgres_server, "nats": nats_server})


async def play(run: Run, striker: Striker, *, seed: int, for_s: float) -> Counter[str]:
    """Clients ask while faults strike, for so long; the clients' last questions are answered after all has healed."""
    accounts = [await asyncio.to_thread(run.customer, credit_usd="500") for _ in range(ACCOUNTS)]
    poor = await asyncio.to_thread(run.customer, credit_usd=POOR_USD)
    seen: Counter[str] = Counter()
    stop = asyncio.Event()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            client = mix.Client(
                run=run,
                account=poor if number == 0 else accounts[number % ACCOUNTS],
                dice=random.Random(f"{seed}-{number}"),
                session=session,
                seen=seen,
                model="fixed" if number == 0 else None,
            )
            group.create_task(client.ask_until(stop))
        for number, account in enumerate(accounts[:PAINTERS]):
            dice = random.Random(f"{seed}-painter-{number}")
            painter = errands.Painter(run=run, account=account, dice=dice, session=session, seen=seen)
            group.create_task(painter.order_until(stop))
        dice = random.Random(f"{seed}-banker")
        banker = errands.Banker(run=run, accounts=accounts, dice=dice, session=session, seen=seen)
        group.create_task(banker.give_until(stop))
        group.create_task(striker.strike_until(stop))
        await asyncio.sleep(for_s)
        stop.set()
    return seen


def served_again(run: Run) -> bool:
    """Whether each edge answers a request."""
    body = mix.Question(model="openai-drain", stream=False, script={"input_tokens": 300}).body
    for url in run.gateway.edge_urls:
        try:
            reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers=run.accounts[0].headers, timeout=5)
        except httpx.TransportError:
            return False
        if reply.status_code != 200:
            return False
    return True


def unrest(running: Gateway) -> dict[str, str]:
    """What of either edge's gauges is not zero, and spools that their dead edges left behind."""
    spools = {str(each.parent) for each in running.data_dir.rglob("edge/*/*.spool")}
    found = {} if len(spools) <= 2 else {"spools": str(spools)}
    for service in running.ready["services"]:
        if service["name"] == "edge":
            text = httpx.get(f"http://{service['metrics']}/metrics", timeout=10).text
            gauges = AT_REST.findall(text)
            assert len(gauges) == 2, text
            found |= {f"{name} of {service['replica']}": value for name, value in gauges if float(value)}
    return found


async def test_whatever_happens_to_whom_the_books_are_exact(
    stage: Stage, minutes: float, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished requests cost their price, cut ones within their bounds, broken ones nothing; nothing stays behind."""
    run = stage.run
    with capsys.disabled():
        sys.stdout.write(f"\nthe mix: --minutes {minutes} --seed {seed}\n")
    striker = Striker(
        gateway=run.gateway,
        servers=stage.servers,
        networks=stage.networks,
        dice=random.Random(seed),
    )
    seen = await play(run, striker, seed=seed, for_s=minutes * 60)
    with capsys.disabled():
        sys.stdout.write(f"seen {dict(seen)}\ndone {dict(striker.said)}\n")
    assert seen["whole"] > 0
    again = lambda: served_again(run)  # noqa: E731
    await asyncio.to_thread(wait_until, again, timeout_s=HEALED_WITHIN_S, what="every edge serves again")
    calm = lambda: not unrest(run.gateway)  # noqa: E731
    await asyncio.to_thread(wait_until, calm, timeout_s=HEALED_WITHIN_S, what="all events applied, all spools empty")
    await asyncio.to_thread(run.audit, within_s=HEALED_WITHIN_S + AUDIT_S_PER_MINUTE * minutes)
