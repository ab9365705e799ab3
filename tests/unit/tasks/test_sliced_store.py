"""Parts of objects, out of a real NATS."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import nats
import pytest
from nats.js.api import ObjectInfo
from nats.js.client import JetStreamContext
from nats.js.object_store import ObjectStore

from chassis.bucket import TRANSFER_TIMEOUT_S, Bucket
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


async def test_what_the_client_library_has_put_is_read_and_removed(bucket: SlicedBucket, nats_url: str):
    """Files of an installation that kept them so before, or of a process of it that runs on beside."""
    name, data = str(uuid.uuid4()), bytes(index % 251 for index in range(300_000))
    await Bucket.put(bucket, name, data)
    for start, length in ((0, 1), (131_071, 2), (200_000, 200_000), (300_000, 9)):
        assert await bucket.part(name, start=start, length=length) == data[start : start + length]
    client = await nats.connect(nats_url)
    try:
        stream = client.jetstream()
        nuid = (await (await stream.object_store("sliced")).get_info(name)).nuid
        await bucket.delete(name)
        assert await bucket.part(name, start=0, length=1) is None
        left = await stream.stream_info("OBJ_sliced", subjects_filter=f"$O.sliced.C.{nuid}")
        assert not left.state.subjects
    finally:
        await client.close()


async def test_a_part_of_what_is_deleted_while_it_is_read_is_none_at_once(
    bucket: SlicedBucket, monkeypatch: pytest.MonkeyPatch
):
    """Its reader is told that it is gone, and does not wait for bytes that can't come."""
    name = str(uuid.uuid4())
    await bucket.put(name, b"x" * 300_000)
    looking = ObjectStore.get_info

    async def slowly(store: ObjectStore, name: str) -> ObjectInfo:
        info = await looking(store, name)
        monkeypatch.setattr(ObjectStore, "get_info", looking)
        await bucket.delete(name)
        return info

    monkeypatch.setattr(ObjectStore, "get_info", slowly)
    async with asyncio.timeout(TRANSFER_TIMEOUT_S - 0.5):
        assert await bucket.part(name, start=0, length=1) is None


async def test_what_a_cancelled_put_has_left_goes_with_its_name(
    bucket: SlicedBucket, nats_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Nobody could reach it, and nobody else would ever remove it."""
    name, at_the_end = str(uuid.uuid4()), asyncio.Event()
    publish = JetStreamContext.publish

    async def stuck(stream: JetStreamContext, subject: str, *args: Any, **more: Any) -> object:
        if ".M." in subject:
            at_the_end.set()
            await asyncio.Event().wait()
        return await publish(stream, subject, *args, **more)

    monkeypatch.setattr(JetStreamContext, "publish", stuck)
    putting = asyncio.create_task(bucket.put(name, b"x" * 300_000))
    await at_the_end.wait()
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    client = await nats.connect(nats_url)
    try:
        left = partial(client.jetstream().stream_info, "OBJ_sliced", subjects_filter=f"$O.sliced.*.{name}.*")
        assert (await left()).state.subjects
        await bucket.delete(name)
        assert not (await left()).state.subjects
    finally:
        await client.close()
