"""Results in a real NATS object store."""

import uuid

import pytest

from chassis.errors import Code, TollbridgeError
from services.tasks.files.results_store import NatsResults


@pytest.fixture
async def results(nats_url: str):
    store = NatsResults(url=nats_url)
    yield store
    await store.close()


async def test_a_second_run_replaces_the_firsts_file(results: NatsResults):
    """The id follows from the job, so there is never a second file of it."""
    file_id = str(uuid.uuid4())
    await results.put(file_id, b"first")
    await results.put(file_id, b"second")
    assert await results.read(file_id, start=0, length=100) == b"second"


async def test_an_unknown_file_is_not_found(results: NatsResults):
    """Not a failure."""
    with pytest.raises(TollbridgeError) as caught:
        await results.read(str(uuid.uuid4()), start=0, length=1)
    assert caught.value.code is Code.NOT_FOUND


async def test_a_file_can_be_removed_once_and_again(results: NatsResults):
    """That there is none is no failure."""
    file_id = str(uuid.uuid4())
    await results.put(file_id, b"x" * 300_000)
    await results.delete(file_id)
    await results.delete(file_id)
    with pytest.raises(TollbridgeError) as caught:
        await results.read(file_id, start=0, length=1)
    assert caught.value.code is Code.NOT_FOUND
