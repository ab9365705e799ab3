"""Old services and new ones side by side on one database and bus: what a rollout meets, in both directions.

Old is the code before the newest commit that changed it (`--upgrade-from` names another revision), as git has it, run
with the libraries that are installed now; where git can't tell, these tests are skipped. The schema is migrated by the
new code while the old one runs on it; the config file is the old one's, all along, and so are the settings.
"""

import asyncio
import dataclasses
import re
import secrets
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from decimal import Decimal
from pathlib import Path

import aiohttp
import httpx
import psycopg
import pytest
from psycopg import sql

from cli.config_check import check as check_config
from cli.up.nats import EmbeddedNats
from cli.up.ports import pick_ports
from tests.conftest import RunningServer
from tests.faults.at_rest import audited
from tests.faults.fleet import NEW, OWNERS, SERVICES, Fleet, NoFormerVersion, Version, fleet, former_version
from tests.faults.load import PRICE, QUICK, Seen, ask, check_books
from tests.faults.test_rolling_restart import PROBE_EVERY_S, Balancer, load_on
from tests.integration.running import Account, Provider, provider, wait_until

SIDE_BY_SIDE_S = 10.0
IMAGES = 12
IMAGE_USD = Decimal("0.02")
VARIABLE = re.compile(r"\$\{(\w+)\}")
"""What a config file wants of the environment and gives no default for."""
LONG = {"chunks": 300, "gap_ms": 100, "input_tokens": 40, "output_tokens": 30}
HASHED = dataclasses.replace(NEW, name="hashed")
"""The new code again, with what the old one does not understand in its settings."""
BOTH_WAYS = pytest.mark.parametrize("way", ["upgrade", "rollback"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Servers:
    """A database and a bus that nobody has used yet."""

    database_url: str
    nats_url: str


@pytest.fixture(scope="module")
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The code as it was."""
    revision: str | None = request.config.getoption("--upgrade-from", default=None)
    try:
        return former_version(tmp_path_factory.mktemp("upgrade"), revision)
    except NoFormerVersion as error:
        pytest.skip(f"no former version to upgrade from: {error}")


@pytest.fixture
def servers(postgres_server: RunningServer, tmp_path: Path) -> Iterator[Servers]:
    """The session's PostgreSQL with a database of its own, and an own NATS."""
    postgres, nats = postgres_server.server, EmbeddedNats(directory=tmp_path / "nats", port=pick_ports(1)[0])
    assert not isinstance(postgres, EmbeddedNats)
    name = f"upgrade_{secrets.token_hex(6)}"
    bus = RunningServer(server=nats, log_path=tmp_path / "nats.log")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        bus.start()
        yield Servers(database_url=postgres.url(name), nats_url=nats.url)
        bus.stop()
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Provider]:
    """The provider of both versions."""
    with provider(tmp_path / "provider") as running:
        yield running


@pytest.fixture
async def running(old: Version, servers: Servers, fake: Provider, tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet of both versions on the old schema and config, of which nothing runs yet."""
    config = old.run("-c", "from tests.integration.offer import CONFIG; print(CONFIG)") % {"provider": fake.url}
    urls = {"database_url": servers.database_url, "nats_url": servers.nats_url}
    with fleet(tmp_path / "fleet", config, old, NEW, HASHED, **urls) as made:
        await asyncio.to_thread(made.migrate, old)
        yield made


def start(running: Fleet, *wanted: tuple[str, Version]) -> None:
    """Starts these side by side and waits until all are ready."""
    for service, version in wanted:
        running.start_one(service, version)
    running.await_ready()


async def ask_each(running: Fleet, account: Account) -> list[Seen]:
    """A stream and a whole answer of every edge."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        kinds = [(url, stream) for url in running.edge_urls for stream in (True, False)]
        asking = (ask(session, account, url, stream=stream, script=QUICK) for url, stream in kinds)
        return await asyncio.gather(*asking)


async def test_old_and_new_services_serve_together(old: Version, running: Fleet, fake: Provider) -> None:
    """On the new schema and the old config an old edge asks new owners, a new edge an old billing; money is exact."""
    await asyncio.to_thread(running.migrate, NEW)
    mixed = [("auth", NEW), ("router", NEW), ("billing", old), ("edge", old), ("edge", NEW)]
    await asyncio.to_thread(start, running, *mixed)
    account = await asyncio.to_thread(running.customer, credit_usd="5")
    with audited(running, fake):
        seen = await ask_each(running, account)
        assert [each for each in seen if each.status != 200 or not each.complete] == []
        await asyncio.to_thread(check_books, [account], seen)


@pytest.mark.thorough
@BOTH_WAYS
async def test_a_change_of_version_fails_no_request(way: str, old: Version, running: Fleet) -> None:
    """Under 50 streams and long jobs: migrate, start the others beside, end the first ones one after another.

    Secrets of callers are in clear meanwhile; when no old service is left, owners are told their hashes instead.
    """
    before, after = (old, NEW) if way == "upgrade" else (NEW, old)
    if way == "rollback":
        await asyncio.to_thread(running.migrate, NEW)
    await asyncio.to_thread(start, running, *((service, before) for service in SERVICES))
    accounts = [await asyncio.to_thread(running.customer, credit_usd="20") for _ in range(4)]
    painter = await asyncio.to_thread(running.customer, credit_usd="5")
    balancer = Balancer(running.all_edge_urls, ready=running.edge_urls)
    watching = asyncio.create_task(balancer.watch())
    try:
        async with load_on(accounts, balancer.choose) as seen:
            await asyncio.to_thread(running.migrate, NEW)  # back again there is nothing to do: no schema goes back
            await asyncio.to_thread(start, running, *((service, after) for service in SERVICES))
            await asyncio.sleep(SIDE_BY_SIDE_S)
            jobs = [await asyncio.to_thread(order, painter, balancer.choose()) for _ in range(IMAGES)]
            await end_in_turn(running, before, SERVICES)
            if way == "upgrade":  # no old one runs any more, so what is new in the settings may be used
                running.told = running.hashed_tokens
                await asyncio.to_thread(start, running, *((service, HASHED) for service in OWNERS))
                await end_in_turn(running, NEW, OWNERS)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    failed = [each for each in seen if each.status != 200 or not each.complete]
    assert failed == [], f"{len(failed)} of {len(seen)} failed: {failed[:5]}"
    for job in jobs:
        await asyncio.to_thread(succeed, painter, job)
    await asyncio.to_thread(painter.charged, IMAGE_USD * IMAGES, 60)
    await asyncio.to_thread(check_books, accounts, seen)
    for account in (*accounts, painter):
        await asyncio.to_thread(account.settled_credits, 60)


async def end_in_turn(running: Fleet, version: Version, services: Iterable[str]) -> None:
    """One after another, so that each time somebody has to go elsewhere."""
    for service in services:
        await asyncio.to_thread(running.end_one, service, version)
        await asyncio.sleep(4 * PROBE_EVERY_S)  # until the balancer has seen it


def order(painter: Account, url: str) -> str:
    """Hands an image over and does not wait; its id."""
    body = {"model": "sandbox-image", "prompt": 'x\n#sandbox {"first_byte_ms": 2000}', "size": "256x256"}
    headers = painter.headers | {"prefer": "respond-async"}
    reply = httpx.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=60)
    assert reply.status_code in (200, 202), reply.text
    found: str = reply.json().get("task_id") or reply.json()["id"]
    return found


def succeed(painter: Account, job: str) -> None:
    """Waits until the job has succeeded."""
    wait_until(lambda: painter.get(f"/tasks/{job}")["status"] == "succeeded", timeout_s=120, what=f"{job} succeeds")


@pytest.mark.thorough
@BOTH_WAYS
async def test_a_dead_edges_spool_is_replayed_by_the_other_version(
    way: str, old: Version, running: Fleet, fake: Provider
) -> None:
    """What one version's edge left on the disk is charged by the other's, once; what was cut is not."""
    before, after = (old, NEW) if way == "upgrade" else (NEW, old)
    await asyncio.to_thread(running.migrate, NEW)
    await asyncio.to_thread(start, running, *((service, before) for service in SERVICES if service != "tasks"))
    account = await asyncio.to_thread(running.customer, credit_usd="5")
    begun, url = asyncio.Event(), running.base_url
    with audited(running, fake):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            cut = asyncio.create_task(ask(session, account, url, script=LONG, begun=begun))
            await asyncio.wait_for(begun.wait(), 60)
            whole = await ask(session, account, url, stream=False)
            await asyncio.to_thread(running.end_one, "edge", before, signal.SIGKILL)
            seen = [whole, await cut]
        assert (whole.status, seen[1].complete) == (200, False)
        await asyncio.to_thread(start, running, ("edge", after))
        await asyncio.to_thread(check_books, [account], seen)
        charges = [Decimal(account.receipt(each.request_id, timeout_s=60)["charge"]) for each in seen]
        assert charges == [PRICE, 0]
        left = lambda: len({each.parent for each in running.data_dir.rglob("*.spool")}) <= 1  # noqa: E731
        await asyncio.to_thread(wait_until, left, timeout_s=60, what="only the spool of the edge that runs is there")


@pytest.mark.thorough
def test_new_code_takes_the_old_config_files(old: Version) -> None:
    """Every example of the former version, with whatever it wants of the environment."""
    files = sorted((old.root / "examples").glob("*.yaml"))
    assert files
    for path in files:
        check_config(path, environ=dict.fromkeys(VARIABLE.findall(path.read_text()), "0" * 64))
