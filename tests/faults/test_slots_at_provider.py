"""Two accounts with three slots each, over two edges and two routers: what the provider itself counts per account.

An answer counts from the arrival of its request until its last byte has left or its socket has closed.
"""

import asyncio
import dataclasses
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_limits import Crowd, restarted, seen, session
from tests.integration.offer import CONFIG
from tests.integration.running import Account, Gateway, Provider, gateway, provider
from tests.patience import promised

MODEL = "pool-chat"
KEYS = ("pool-a", "pool-b")
SLOTS = 3
CLIENTS = 12
STREAM = {"chunks": 10, "gap_ms": 40}
BACK_US = int(promised(10) * 1_000_000)
POOL = """providers:
  - id: pool
    protocol: openai
    base_url: "%(provider)s/v1"
    accounts: [{id: pool-a, api_key: pool-a, slots: 3}, {id: pool-b, api_key: pool-b, slots: 3}]
"""
POOLED = """models:
  - id: pool-chat
    max_output: 4096
    category: chat
    routes: [{provider: pool, model: upstream-alpha}]
    price: {input: 1, output: 2}
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Provider]]:
    """Two replicas of whoever has a hand in it."""
    directory: Path = tmp_path_factory.mktemp("slots")
    config = CONFIG.replace("providers:\n", POOL).replace("models:\n", POOLED)
    with (
        provider(directory) as fake,
        gateway(directory, config % {"provider": fake.url}, replicas={"edge": 2, "router": 2, "auth": 2}) as running,
    ):
        yield running, fake


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What the provider was busy with, each step of the way: when, and the ids of requests by account."""

    at_us: int
    busy: dict[str, frozenset[str]]

    @property
    def ids(self) -> frozenset[str]:
        """All of them."""
        return frozenset().union(*self.busy.values())


async def recorded(fake: Provider, account: Account) -> list[dict[str, Any]]:
    """The provider's log, with the end of each answer: it writes that down after the last bytes have left."""
    async with asyncio.timeout(20):
        while True:
            lines = seen(fake, account)
            events = Counter(line["event"] for line in lines)
            if events["arrived"] == events["ended"]:
                return lines
            await asyncio.sleep(0.05)


def measured(lines: list[dict[str, Any]]) -> list[Measured]:
    """The provider's log, added up."""
    busy: dict[str, frozenset[str]] = dict.fromkeys(KEYS, frozenset())
    key_of = {line["id"]: line["key"] for line in lines if line["event"] == "arrived"}
    steps: list[Measured] = []
    for line in lines:
        key, one = key_of[line["id"]], frozenset({line["id"]})
        busy = busy | {key: busy[key] | one if line["event"] == "arrived" else busy[key] - one}
        steps.append(Measured(at_us=line["at_us"], busy=busy))
    return steps


def most(steps: list[Measured]) -> dict[str, int]:
    """The most at once, by account."""
    return {key: max(len(each.busy[key]) for each in steps) for key in steps[0].busy}


def whole(lines: list[dict[str, Any]]) -> Counter[bool]:
    """How many answers left whole, and how many did not."""
    return Counter(line["finished"] for line in lines if line["event"] == "ended")


def full_again_us(lines: list[dict[str, Any]], since_us: int) -> int:
    """How long after that moment all slots ran requests that had arrived after it; fails if they never did."""
    later = {line["id"] for line in lines if line["event"] == "arrived" and line["at_us"] > since_us}
    full = (each.at_us for each in measured(lines) if len(each.ids & later) == SLOTS * len(KEYS))
    at_us = next(full, None)
    assert at_us is not None, "never were all slots in use again"
    return at_us - since_us


async def insist(crowd: Crowd, answers: int) -> None:
    """So many answers to one client; who finds an edge gone asks the next one."""
    while answers:
        if await crowd.ask(STREAM, stream=True, model=MODEL) == 200:
            answers -= 1
        else:
            await asyncio.sleep(0.1)


@pytest.mark.thorough
async def test_of_300_streams_never_four_are_at_an_account_and_each_has_its_turn(rig: tuple[Gateway, Provider]) -> None:
    """Twelve clients for six slots: those who wait in line are all answered, and no slot is left idle."""
    running, fake = rig
    account = await asyncio.to_thread(running.customer, credit_usd="100")
    async with session() as connection:
        crowd = Crowd(account, connection)
        async with asyncio.timeout(120):
            await asyncio.gather(*(insist(crowd, 300 // CLIENTS) for _ in range(CLIENTS)))
    lines = await recorded(fake, account)
    assert most(measured(lines)) == dict.fromkeys(KEYS, SLOTS)
    assert crowd.statuses == {200: 300}
    assert whole(lines) == {True: 300}


STRUCK = (("edge", 1), ("router", 0), ("router", 1), ("edge", 0), ("auth", 1))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "replica"), STRUCK)
async def test_a_killed_replica_lets_no_fourth_in_and_all_slots_are_back(
    rig: tuple[Gateway, Provider], name: str, replica: int
) -> None:
    """Within ten seconds of its death; nobody who asked a living edge is refused."""
    running, fake = rig
    account = await asyncio.to_thread(running.customer, credit_usd="100")
    former = running.pid(name, replica)
    async with session() as connection, asyncio.timeout(120):
        crowd = Crowd(account, connection)
        going = [asyncio.create_task(insist(crowd, 300 // CLIENTS)) for _ in range(CLIENTS)]
        while crowd.statuses[200] < 60:  # noqa: ASYNC110  any of many answers
            await asyncio.sleep(0.01)
        killed_at_us = time.time_ns() // 1000
        os.kill(former, signal.SIGKILL)
        await asyncio.gather(*going)
    await restarted(running, name, replica, former)
    lines = await recorded(fake, account)
    assert most(measured(lines)) == dict.fromkeys(KEYS, SLOTS)
    assert full_again_us(lines, killed_at_us) < BACK_US
    assert crowd.statuses[200] == 300
    if name == "edge":
        assert set(crowd.statuses) <= {200, 0}
    else:
        assert set(crowd.statuses) == {200}
        assert whole(lines) == {True: 300}
