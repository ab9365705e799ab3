"""A bucket in a real NATS, which may go away and come back, with or without its disk."""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from chassis.bucket import Bucket
from chassis.errors import Code, TollbridgeError
from tests.patience import promised


@pytest.fixture
async def new(nats_url: str) -> AsyncIterator[Callable[..., Bucket]]:
    """Makes buckets."""
    made: list[Bucket] = []

    def make(name: str = "test", **more) -> Bucket:
        made.append(Bucket(url=nats_url, name=name, client="test", **more))
        return made[-1]

    yield make
    for bucket in made:
        await bucket.close()


async def refused(call) -> Code:
    with pytest.raises(TollbridgeError) as caught:
        await call
    return caught.value.code


async def insisted(call, *, within_s: float = 30) -> None:
    """Calls until it succeeds."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(TollbridgeError):
            await call()
            return
    raise AssertionError("it did not come back in time")


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 1_000_003])
async def test_an_object_comes_back_as_it_went(new, size: int):
    """Whatever its size, and over the size of one message."""
    bucket, name, data = new(), str(uuid.uuid4()), bytes(index % 251 for index in range(size))
    assert await bucket.get(name) is None
    await bucket.put(name, data)
    assert await bucket.get(name) == data


async def test_an_object_is_gone_after_its_time(new):
    """The server drops it by itself."""
    bucket, name = new("brief", max_age_s=1.0), str(uuid.uuid4())
    await bucket.put(name, b"soon gone")
    assert await bucket.get(name) == b"soon gone"
    deadline = time.monotonic() + 30
    while await bucket.get(name) is not None:
        assert time.monotonic() < deadline, "it is still there"


async def test_a_full_bucket_says_so(new):
    """Before anything is begun that would need it."""
    bucket = new("small", max_bytes=1000)
    await bucket.check()
    await bucket.put("large", bytes(2000))
    assert await refused(bucket.check()) is Code.UNAVAILABLE


async def test_a_store_that_is_away_is_unavailable_and_comes_back(new, nats_server):
    """Within its limit, and without a restart of ours."""
    bucket = new(transfer_timeout_s=1.0)
    await bucket.put("here", b"kept")
    nats_server.kill()
    try:
        began = time.monotonic()
        assert await refused(bucket.check()) is Code.UNAVAILABLE
        assert time.monotonic() - began < promised(1)
        assert await refused(bucket.put("new", b"new")) is Code.UNAVAILABLE
    finally:
        nats_server.start()
    await insisted(bucket.check)
    assert await bucket.get("here") == b"kept"


async def test_a_store_that_lost_its_disk_takes_new_objects(new, nats_server):
    """The bucket is made again."""
    bucket = new(transfer_timeout_s=1.0)
    await bucket.put("lost", b"lost")
    nats_server.kill()
    nats_server.lose_disk()
    nats_server.start()
    await insisted(lambda: bucket.put("new", b"new"))
    await bucket.check()
    assert await bucket.get("new") == b"new"
