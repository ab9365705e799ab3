"""Parts of objects, out of a real NATS."""

import uuid
from collections.abc import AsyncIterator

import pytest

from services.tasks.files.sliced_store import SlicedBucket


@pytest.fixture
async def bucket(nats_url: str) -> AsyncIterator[SlicedBucket]:
    made = SlicedBucket(url=nats_url, name="sliced", client="test")
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0, 1_000_003), (131_071, 2), (131_072, 131_072), (900_000, 500_000), (1_000_002, 1), (1_000_003, 9)],
)
async def test_a_part_of_an_object_comes_by_itself(bucket: SlicedBucket, start: int, length: int):
    """Over the edges of its messages, and fewer bytes where it ends."""
    name, data = str(uuid.uuid4()), bytes(index % 251 for index in range(1_000_003))
    await bucket.put(name, data)
    assert await bucket.part(name, start=start, length=length) == data[start : start + length]


async def test_parts_of_what_was_replaced_are_of_what_is_there_now(bucket: SlicedBucket):
    """Though it is remembered where the old ones were; what is gone, or never was, is none."""
    name = str(uuid.uuid4())
    assert await bucket.part(name, start=0, length=1) is None
    for data in (b"", b"a" * 300_000, b"b" * 200_000):
        await bucket.put(name, data)
        assert await bucket.part(name, start=150_000, length=200_000) == data[150_000:]
    await bucket.delete(name)
    assert await bucket.part(name, start=0, length=1) is None
