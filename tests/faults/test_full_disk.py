"""A disk without room: nothing is served uncharged, what runs ends well, and room again is service again."""

import asyncio
import contextlib
import resource
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.faults.at_rest import audited
from tests.faults.checker import read_log
from tests.faults.load import PRICE, STREAMS, ask
from tests.integration.offer import CONFIG
from tests.integration.running import Gateway, Provider, gateway, provider, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process need prlimit")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Provider]]:
    """A system of its own, whose edge may write no more."""
    directory: Path = tmp_path_factory.mktemp("full")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}) as running,
        audited(running, fake),
    ):
        yield running, fake


@contextlib.contextmanager
def no_room(pid: int) -> Iterator[None]:
    """From now on no file of this process grows, its logs included: EFBIG in the place of ENOSPC."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def test_on_a_full_disk_streams_end_well_and_nothing_new_is_served(rig: tuple[Gateway, Provider]) -> None:
    """Streams that run are whole and charged; a new request is a 503 that no provider sees, until there is room."""
    running, fake = rig
    account = await asyncio.to_thread(running.customer, credit_usd="20")
    url = running.base_url
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        streams = [asyncio.create_task(ask(session, account, url, stream=True)) for _ in range(STREAMS)]
        arrived = lambda: len(read_log(fake.log)) >= STREAMS  # noqa: E731
        await asyncio.to_thread(wait_until, arrived, timeout_s=20, what="all streams run")
        with no_room(running.pid("edge")):
            refused = [await ask(session, account, url, stream=False) for _ in range(5)]
            served = [each for each in await asyncio.gather(*streams) if each.complete]
            late = await ask(session, account, url, stream=False)
            ready = await asyncio.to_thread(httpx.get, f"{url}/readyz")
    assert {(each.status, each.complete) for each in (*refused, late)} == {(503, False)}
    assert ready.status_code == 503
    assert len(served) == STREAMS
    assert len(read_log(fake.log)) == STREAMS

    def serves() -> bool:
        body = {"model": "fixed-chat", "messages": [{"role": "user", "content": "hi"}]}
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers=account.headers, timeout=10).is_success

    await asyncio.to_thread(wait_until, serves, timeout_s=30, what="served again")
    for each in served:
        receipt = await asyncio.to_thread(account.receipt, each.request_id)
        assert Decimal(receipt["charge"]) == PRICE
    await asyncio.to_thread(account.charged, PRICE * STREAMS + Decimal("0.03"))
