"""A replica may stop without dying: the other answers in its stead, and the books stay exact."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.faults.at_rest import audited
from tests.faults.load import STREAMS, ask, check_books, under_load
from tests.integration.offer import CONFIG
from tests.integration.running import Gateway, gateway, provider
from tests.patience import promised

PAUSE_S = 8.0
LAPSED_S = 37.0
"""Longer than slots and permits live without a word from who holds them."""
PATIENT = CONFIG.replace("idle: 20", "idle: 100")
"""A provider that was not read for so long has not failed."""
TWO = {"edge": 2, "router": 2, "billing": 2, "auth": 2}
TRUTHFUL_S = promised(6.0)
"""A refusal because of a silent owner must not take longer."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two replicas of everything that a request asks."""
    directory: Path = tmp_path_factory.mktemp("paused")
    with (
        provider(directory) as fake,
        gateway(directory, PATIENT % {"provider": fake.url}, replicas=TWO) as running,
        audited(running, fake),
    ):
        yield running


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["billing", "router", "auth"])
async def test_while_one_replica_is_paused_the_other_answers(pairs: Gateway, victim: str) -> None:
    """SIGSTOP for 8 s: streams run on, requests are answered or truthfully refused until the silence is noticed."""
    accounts = [await asyncio.to_thread(pairs.customer, credit_usd="20") for _ in range(4)]
    seen = await under_load(accounts, pairs.paused(victim), for_s=PAUSE_S)
    assert all(each.complete for each in seen[:STREAMS])
    assert {(each.status, each.code) for each in seen} <= {(200, ""), (503, "unavailable")}
    assert max(each.took_s for each in seen[STREAMS:]) < TRUTHFUL_S
    assert seen[-1].status == 200
    assert sum(each.complete for each in seen[STREAMS:]) > 20
    await asyncio.to_thread(check_books, accounts, seen)


@pytest.mark.thorough
async def test_an_edge_that_was_paused_until_its_slots_were_others_ends_what_ran(pairs: Gateway) -> None:
    """SIGSTOP for 37 s, of streams of 100 s: they are cut when it goes on, and cost nothing."""
    account = await asyncio.to_thread(pairs.customer, credit_usd="20")
    long = {"chunks": 1000, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}
    begun = [asyncio.Event() for _ in range(5)]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=200)) as session:
        streams = [
            asyncio.create_task(ask(session, account, pairs.edge_urls[0], script=long, begun=each)) for each in begun
        ]
        async with asyncio.timeout(promised(20.0)):
            await asyncio.gather(*(each.wait() for each in begun))
        with pairs.paused("edge"):
            await asyncio.sleep(LAPSED_S)
        seen = await asyncio.gather(*streams)
    assert not any(each.complete for each in seen)
    assert max(each.took_s for each in seen) < 90
    await asyncio.to_thread(check_books, [account], seen)
