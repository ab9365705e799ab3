"""A replica may stop without dying: the other answers in its stead, and the books stay exact."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.at_rest import audited
from tests.faults.load import STREAMS, check_books, under_load
from tests.integration.offer import CONFIG
from tests.integration.running import Gateway, gateway, provider
from tests.patience import promised

PAUSE_S = 8.0
TWO = {"edge": 2, "router": 2, "billing": 2, "auth": 2}
TRUTHFUL_S = promised(6.0)
"""A refusal because of a silent owner must not take longer."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two replicas of everything that a request asks."""
    directory: Path = tmp_path_factory.mktemp("paused")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}, replicas=TWO) as running,
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
