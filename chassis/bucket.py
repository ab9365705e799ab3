"""Named bytes in a bucket of NATS Object Store.

The connection is made at the first use and then kept, so that a process starts without NATS. Everything has a timeout,
and everything that goes wrong on the way is UNAVAILABLE.
"""

import asyncio
import contextvars
import datetime

from nats.errors import Error as NatsError
from nats.js.api import ObjectInfo
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from chassis.bus_link import Link, inbox_of
from chassis.errors import Code, TollbridgeError
from chassis.streams import open_bucket
from chassis.tls import Certificates

CONNECT_TIMEOUT_S = 3.0
CHECK_TIMEOUT_S = 0.9
TRANSFER_TIMEOUT_S = 5.0
MARGIN_S = 60.0
"""An object that has no longer to live than this, or a tenth of its time, counts as gone."""


class Bucket:
    """One bucket, which is made where it is missing. `max_age_s` is how long each object is kept, None is for ever.

    `client` is the name that the server shows of us. It is kept on `replicas` servers, or on more where it was. With
    `max_bytes`, `check` fails once it holds as much.
    """

    def __init__(
        self,
        *,
        url: str,
        name: str,
        client: str,
        max_age_s: float | None = None,
        max_bytes: int | None = None,
        transfer_timeout_s: float = TRANSFER_TIMEOUT_S,
        replicas: int = 1,
        tls: Certificates | None = None,
    ) -> None:
        self._url, self._tls = url, tls
        self._name, self._replicas = name, replicas
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._client_name = client
        self._transfer_timeout_s = transfer_timeout_s
        self._client: Link | None = None
        self._bucket: ObjectStore | None = None
        self._opening = asyncio.Lock()

    async def check(self) -> None:
        """Returns when the store answers and has room. Raises UNAVAILABLE within a second."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                status = await (await self._open()).status()
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None  # a server that lost its disk has to be given the bucket again
            raise _unavailable() from error
        if self._max_bytes is not None and status.size >= self._max_bytes:
            raise _unavailable()

    async def put(self, name: str, data: bytes) -> None:
        """Keeps an object; the same name again replaces it. Raises UNAVAILABLE."""
        try:
            async with asyncio.timeout(self._transfer_timeout_s):
                await (await self._open()).put(name, data)
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None
            raise _unavailable() from error

    async def get(self, name: str) -> bytes | None:
        """An object, None where there is none. Raises UNAVAILABLE."""
        try:
            async with asyncio.timeout(self._transfer_timeout_s):
                bucket = await self._open()
                if self._is_over(await bucket.get_info(name)):
                    return None
                found = await bucket.get(name)
        except NotFoundError:
            return None
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None
            raise _unavailable() from error
        return bytes(found.data or b"")

    async def delete(self, name: str) -> None:
        """Removes an object; that there is none is no failure. Raises UNAVAILABLE."""
        try:
            async with asyncio.timeout(self._transfer_timeout_s):
                await (await self._open()).delete(name)
        except NotFoundError:
            return
        except (NatsError, OSError, TimeoutError) as error:
            self._bucket = None
            raise _unavailable() from error

    async def close(self) -> None:
        """Ends the connection."""
        client, self._client, self._bucket = self._client, None, None
        if client is not None:
            await client.end()

    def _is_over(self, info: ObjectInfo) -> bool:
        """Whether its bytes may be gone before its name is: the server drops them in the order in which they came, and
        a reader would wait in vain for those."""
        if self._max_age_s is None or not info.mtime:
            return False
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(info.mtime)
        return age.total_seconds() > self._max_age_s - min(MARGIN_S, self._max_age_s / 10)

    async def _open(self) -> ObjectStore:
        async with self._opening:
            if self._client is None:
                # In a context of its own: it outlives the request that needed it first, and must not log that id.
                connecting = asyncio.create_task(self._connect(), context=contextvars.Context())
                self._client = await connecting
            if self._bucket is None:
                jetstream = self._client.jetstream(timeout=TRANSFER_TIMEOUT_S)
                self._bucket = await open_bucket(jetstream, self._name, self._max_age_s, self._replicas)
            return self._bucket

    async def _connect(self) -> Link:
        client = Link(self._tls)
        await client.connect(
            self._url,
            name=self._client_name,
            inbox_prefix=inbox_of(self._url),
            connect_timeout=int(CONNECT_TIMEOUT_S),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
        )
        return client


def _unavailable() -> TollbridgeError:
    return TollbridgeError(Code.UNAVAILABLE, "The object store can't be reached now.", retry_after_s=1)
