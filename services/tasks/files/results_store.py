"""Results in a bucket of NATS Object Store, bytes by file id. While it is away the job is tried again."""

from chassis.errors import Code, TollbridgeError
from chassis.tls import Certificates
from services.tasks.files.sliced_store import SlicedBucket

BUCKET = "tollbridge-results"
TRANSFER_TIMEOUT_S = 30.0


class NatsResults:
    """The store that NATS offers."""

    def __init__(
        self,
        *,
        url: str,
        transfer_timeout_s: float = TRANSFER_TIMEOUT_S,
        replicas: int = 1,
        tls: Certificates | None = None,
    ) -> None:
        self._bucket = SlicedBucket(
            url=url,
            name=BUCKET,
            client="tasks results",
            transfer_timeout_s=transfer_timeout_s,
            replicas=replicas,
            tls=tls,
        )

    async def put(self, file_id: str, data: bytes) -> None:
        """Keeps a file; the same id again replaces it. Raises UNAVAILABLE."""
        await self._bucket.put(file_id, data)

    async def read(self, file_id: str, *, start: int, length: int) -> bytes:
        """A part of a file. Raises NOT_FOUND or UNAVAILABLE."""
        found = await self._bucket.part(file_id, start=start, length=length)
        if found is None:
            raise TollbridgeError(Code.NOT_FOUND, "There is no such file.")
        return found

    async def delete(self, file_id: str) -> None:
        """Removes a file; that there is none is no failure. Raises UNAVAILABLE."""
        await self._bucket.delete(file_id)

    async def close(self) -> None:
        """Ends the connection."""
        await self._bucket.close()
