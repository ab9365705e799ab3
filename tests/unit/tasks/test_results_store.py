"""Results in a real NATS object store, which may go away and come back, with or without its disk."""

import shutil
import uuid

import pytest

from chassis.errors import Code, TollbridgeError
from services.tasks import results_store
from services.tasks.results_store import NatsResults


@pytest.fixture
async def results(nats_url: str):
    store = NatsResults(url=nats_url)
    yield store
    await store.close()


def name() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 1_000_003])
async def test_a_file_comes_back_as_it_went(results: NatsResults, size: int):
    """Whatever its size, and over the size of one message."""
    file_id, data = name(), bytes(index % 251 for index in range(size))
    await results.put(file_id, data)
    assert await results.get(file_id) == data


async def test_a_second_run_replaces_the_firsts_file(results: NatsResults):
    """The id follows from the job, so there is never a second file of it."""
    file_id = name()
    await results.put(file_id, b"first")
    await results.put(file_id, b"second")
    assert await results.get(file_id) == b"second"


async def test_an_unknown_file_is_not_found(results: NatsResults):
    """Not a failure."""
    with pytest.raises(TollbridgeError) as caught:
        await results.get(name())
    assert caught.value.code is Code.NOT_FOUND


async def test_a_store_that_is_away_is_unavailable_and_comes_back(
    results: NatsResults, nats_server, monkeypatch: pytest.MonkeyPatch
):
    """Within its limit, and without a restart of ours."""
    file_id = name()
    await results.put(file_id, b"kept")
    monkeypatch.setattr(results_store, "TRANSFER_TIMEOUT_S", 1.0)
    nats_server.kill()
    try:
        with pytest.raises(TollbridgeError) as caught:
            await results.put(name(), b"new")
        assert caught.value.code is Code.UNAVAILABLE
    finally:
        nats_server.start()
    monkeypatch.undo()
    assert await results.get(file_id) == b"kept"


async def test_a_store_that_lost_its_disk_takes_new_files(results: NatsResults, nats_server):
    """The bucket is made again."""
    await results.put(name(), b"lost")
    nats_server.kill()
    for streams in nats_server.server._directory.rglob("streams"):
        shutil.rmtree(streams)
    nats_server.start()
    file_id = name()
    for _ in range(5):
        try:
            await results.put(file_id, b"new")
            break
        except TollbridgeError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
    assert await results.get(file_id) == b"new"
