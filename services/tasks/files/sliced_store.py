"""A bucket whose objects are read in parts, so that nobody holds a large file for the sake of a slow reader.

The client library only knows whole objects. One is a message for each chunk; where these are in the stream is written
down in the object's own message, so that each is had by its number. The subject of the chunks begins with the object's
name: whatever a `put` has left that was cancelled, or whose process died, goes when the name is deleted.
"""

import asyncio
import base64
import contextlib
import datetime
import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence

import msgspec
from nats.errors import Error as NatsError
from nats.js.api import Header, ObjectInfo, ObjectMetaOptions
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from chassis.bucket import TRANSFER_TIMEOUT_S, Bucket
from chassis.errors import Code, TollbridgeError

CHUNK_BYTES = 128 << 10
PLACES = "places"
_NUMBERS = msgspec.json.Decoder(list[int])


class SlicedBucket(Bucket):
    """One bucket. Names are of letters, digits and `-`, since they are parts of subjects."""

    async def put(self, name: str, data: bytes) -> None:
        """Keeps an object; the same name again replaces it. Raises UNAVAILABLE."""
        nuid, digest = f"{name}.{uuid.uuid4().hex}", hashlib.sha256()
        async with self._opened() as bucket:
            former = await _known(bucket, name)
            places = []
            for at in range(0, len(data), CHUNK_BYTES):
                chunk = data[at : at + CHUNK_BYTES]
                digest.update(chunk)
                places.append((await self._stream().publish(self._chunks(nuid), chunk)).seq)
            info = ObjectInfo(
                name=name,
                bucket=self._name,
                nuid=nuid,
                size=len(data),
                chunks=len(places),
                mtime=datetime.datetime.now(datetime.UTC).isoformat(),
                digest=f"SHA-256={base64.urlsafe_b64encode(digest.digest()).decode()}",
                headers={PLACES: [msgspec.json.encode(places).decode()]},
                options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES),
            )
            rollup = {Header.ROLLUP.value: "sub"}  # of its subject only the newest is kept
            await self._stream().publish(self._meta(name), msgspec.json.encode(info.as_dict()), headers=rollup)
            if former is not None:
                await self._purge(self._chunks(former.nuid))

    async def part(self, name: str, *, start: int, length: int) -> bytes | None:
        """So many bytes of an object from `start` on; fewer where it ends, None where there is none.

        Raises UNAVAILABLE.
        """
        async with self._opened() as bucket:
            info = await _known(bucket, name)
            if info is None:
                return None
            if _is_elsewhere(info):
                whole = await self.get(name)
                return whole and whole[start : start + length]
            wanted = _places(info)[start // CHUNK_BYTES : -(-(start + length) // CHUNK_BYTES)]
            try:
                found = b"".join(await asyncio.gather(*map(self._chunk, wanted)))
            except NotFoundError:  # it was deleted meanwhile
                return None
        return found[start % CHUNK_BYTES :][:length]

    async def delete(self, name: str) -> None:
        """Removes an object, and all that was left of one; that there is none is no failure. Raises UNAVAILABLE."""
        async with self._opened() as bucket:
            info = await _known(bucket, name)
            if info is not None and _is_elsewhere(info):
                await self._purge(self._chunks(info.nuid))
            await self._purge(self._meta(name))
            await self._purge(self._chunks(f"{name}.*"))

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[ObjectStore]:
        try:
            async with asyncio.timeout(self._transfer_timeout_s):
                yield await self._open()
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None
            message = "The object store can't be reached now."
            raise TollbridgeError(Code.UNAVAILABLE, message, retry_after_s=1) from error

    async def _chunk(self, place: int) -> bytes:
        found = await self._stream().get_msg(f"OBJ_{self._name}", seq=place, direct=True)
        return found.data or b""

    async def _purge(self, subject: str) -> None:
        await self._stream().purge_stream(f"OBJ_{self._name}", subject=subject)

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self._name}.C.{nuid}"

    def _meta(self, name: str) -> str:
        return f"$O.{self._name}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def _stream(self) -> JetStreamContext:
        if self._client is None:
            raise RuntimeError("the bucket is not open")
        return self._client.jetstream(timeout=TRANSFER_TIMEOUT_S)


async def _known(bucket: ObjectStore, name: str) -> ObjectInfo | None:
    try:
        return await bucket.get_info(name)
    except NotFoundError:
        return None


def _is_elsewhere(info: ObjectInfo) -> bool:
    """It was put by the client library, which writes no places down, as we did once."""
    return PLACES not in (info.headers or {})


def _places(info: ObjectInfo) -> Sequence[int]:
    """The numbers of an object's chunks in the stream, in their order."""
    return _NUMBERS.decode((info.headers or {})[PLACES][0])
