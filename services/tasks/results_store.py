"""Results in a bucket of NATS Object Store, bytes by file id.

The connection is made at the first use and then kept, so that tasks starts without NATS. Everything has a timeout, and
everything that goes wrong on the way is UNAVAILABLE: the job is then tried again.
"""

import asyncio
import contextvars

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from chassis.errors import Code, TollbridgeError

BUCKET = "tollbridge-results"
CONNECT_TIMEOUT_S = 3.0
TRANSFER_TIMEOUT_S = 30.0


class NatsResults:
    """The store that NATS offers."""

    def __init__(self, *, url: str) -> None:
        self._url = url
        self._client: Client | None = None
        self._bucket: ObjectStore | None = None
        self._opening = asyncio.Lock()

    async def put(self, file_id: str, data: bytes) -> None:
        """Keeps a file; the same id again replaces it. Raises UNAVAILABLE."""
        try:
            async with asyncio.timeout(TRANSFER_TIMEOUT_S):
                bucket = await self._open()
                await bucket.put(file_id, data)
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None  # a server that lost its disk has to be given the bucket again
            raise _unavailable() from error

    async def get(self, file_id: str) -> bytes:
        """A file. Raises NOT_FOUND or UNAVAILABLE."""
        try:
            async with asyncio.timeout(TRANSFER_TIMEOUT_S):
                bucket = await self._open()
                found = await bucket.get(file_id)
        except NotFoundError as error:
            raise TollbridgeError(Code.NOT_FOUND, "There is no such file.") from error
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None  # a server that lost its disk has to be given the bucket again
            raise _unavailable() from error
        return bytes(found.data or b"")

    async def close(self) -> None:
        """Ends the connection."""
        client, self._client, self._bucket = self._client, None, None
        if client is not None:
            await client.close()

    async def _open(self) -> ObjectStore:
        async with self._opening:
            if self._client is None:
                # In a context of its own: it outlives the job that needed it first, and must not log that id.
                connecting = asyncio.create_task(self._connect(), context=contextvars.Context())
                self._client = await connecting
            if self._bucket is None:
                self._bucket = await self._client.jetstream().create_object_store(BUCKET)
            return self._bucket

    async def _connect(self) -> Client:
        return await nats.connect(
            self._url,
            name="tasks results",
            connect_timeout=int(CONNECT_TIMEOUT_S),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
        )


def _unavailable() -> TollbridgeError:
    return TollbridgeError(Code.UNAVAILABLE, "Results can't be reached now.", retry_after_s=1)
