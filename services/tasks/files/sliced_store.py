"""A bucket whose objects are read in parts, so that nobody holds a large file for the sake of a slow reader.

The client library only knows whole objects. One is a message for each chunk, on a subject of its own; where these
messages are in the stream is asked for once an object, without their bytes, and then each is had by its number.
"""

import asyncio
import collections
from collections.abc import Sequence

from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, ObjectInfo
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from chassis.bucket import TRANSFER_TIMEOUT_S, Bucket
from chassis.errors import Code, TollbridgeError

CHUNK_BYTES = 128 << 10
"""How the client library cuts objects."""
KNOWN_OBJECTS = 256
"""Of so many it is remembered where their chunks are: a number for each of these."""


class SlicedBucket(Bucket):
    """One bucket."""

    _places: collections.OrderedDict[str, Sequence[int]] | None = None

    async def part(self, name: str, *, start: int, length: int) -> bytes | None:
        """So many bytes of an object from `start` on; fewer where it ends, None where there is none.

        Raises UNAVAILABLE.
        """
        try:
            async with asyncio.timeout(self._transfer_timeout_s):
                info = await (await self._open()).get_info(name)
                places = await self._places_of(info)
                wanted = places[start // CHUNK_BYTES : -(-(start + length) // CHUNK_BYTES)]
                found = b"".join(await asyncio.gather(*map(self._chunk, wanted)))
        except NotFoundError:
            return None
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None
            message = "The object store can't be reached now."
            raise TollbridgeError(Code.UNAVAILABLE, message, retry_after_s=1) from error
        return found[start % CHUNK_BYTES :][:length]

    async def _places_of(self, info: ObjectInfo) -> Sequence[int]:
        """The numbers of an object's chunks in the stream, in their order."""
        known = self._places = self._places or collections.OrderedDict()
        if not info.nuid or not info.chunks:
            return ()
        found = known.get(info.nuid)
        if found is None:
            found = known[info.nuid] = await self._listed(info.nuid, chunks=info.chunks)
            if len(known) > KNOWN_OBJECTS:
                known.popitem(last=False)
        known.move_to_end(info.nuid)
        return found

    async def _listed(self, nuid: str, *, chunks: int) -> Sequence[int]:
        subject = f"$O.{self._name}.C.{nuid}"
        bare = ConsumerConfig(headers_only=True)
        listing = await self._stream().subscribe(subject, ordered_consumer=True, config=bare)
        try:
            return [(await listing.next_msg(TRANSFER_TIMEOUT_S)).metadata.sequence.stream for _ in range(chunks)]
        finally:
            await listing.unsubscribe()

    async def _chunk(self, place: int) -> bytes:
        found = await self._stream().get_msg(f"OBJ_{self._name}", seq=place, direct=True)
        return found.data or b""

    def _stream(self) -> JetStreamContext:
        if self._client is None:
            raise RuntimeError("the bucket is not open")
        return self._client.jetstream(timeout=TRANSFER_TIMEOUT_S)
