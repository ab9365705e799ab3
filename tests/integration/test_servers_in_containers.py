"""The servers of tests, as containers: killed and started again they are what a crashed server is to its clients."""

from collections.abc import Iterator

import nats
import psycopg
import pytest
from nats.js.errors import NotFoundError

from tests import containers
from tests.containers import ContainedNats, ContainedPostgres


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """Answers, or there is nothing to test."""
    if reason := containers.reason_against():
        pytest.skip(reason)


@pytest.fixture
def database() -> Iterator[ContainedPostgres]:
    """A server of the test's own."""
    server = ContainedPostgres()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def bus() -> Iterator[ContainedNats]:
    """A server of the test's own."""
    server = ContainedNats()
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_a_killed_database_comes_back_with_what_it_had(database: ContainedPostgres) -> None:
    """At the same address."""
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    database.kill()
    assert not database.runs
    database.start()
    with psycopg.connect(database.url()) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


async def test_a_killed_bus_comes_back_with_what_it_had_unless_its_disk_is_lost(bus: ContainedNats) -> None:
    """At the same address."""
    for is_lost in (False, True):
        client = await nats.connect(bus.url)
        await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        await client.close()
        bus.kill()
        if is_lost:
            bus.lose_disk()
        bus.start()
        client = await nats.connect(bus.url)
        if is_lost:
            with pytest.raises(NotFoundError):
                await client.jetstream().stream_info("KEPT")
        else:
            assert (await client.jetstream().stream_info("KEPT")).config.name == "KEPT"
        await client.close()
