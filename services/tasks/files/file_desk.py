"""Hands files out, to their owners and to whoever has a link, and takes them away when their owner says so."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks import store
from services.tasks.files import file_store, links
from services.tasks.files.results import PIECE_BYTES, SLICE_BYTES, Results
from services.tasks.files.retention import Retention
from services.tasks.jobs import Job, ResultFile
from tollbridge.tasks.v1 import tasks_pb2 as pb

MAX_READERS = 256
"""At one time, each with a slice of its file in memory. Edge reads a slice a call, and is soon gone."""


class FileDesk:
    """Another customer's file, and one that is gone, are not found."""

    def __init__(
        self, *, pool: db.Pool, results: Results, retention: Retention, clock: Callable[[], float] = time.time
    ) -> None:
        self._pool, self._results, self._retention, self._clock = pool, results, retention, clock
        self._secrets: Sequence[bytes] = ()
        self._readers = 0

    async def with_links(self, task: pb.Task) -> pb.Task:
        """The same task; each of its files has a link that is good for an hour."""
        if task.results:
            newest = (await self._link_secrets())[0]
            for result in task.results:
                expires_s, signature = links.sign(newest, result.file_id, now_s=self._clock())
                result.link_expires_s, result.link_signature = expires_s, signature
        return task

    async def find(self, file_id: str, *, customer_id: str) -> ResultFile:
        """A customer's file; empty is any customer. Raises NOT_FOUND, UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            found = await file_store.with_owner(conn, file_id)
        if found is None or customer_id not in ("", found[1]):
            raise _not_found()
        return found[0]

    async def read(self, file: ResultFile, *, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """So many bytes of a file that was found, from `start` on, in pieces that fit a message, each slice of them
        once its reader has taken those before. Raises NOT_FOUND, UNAVAILABLE, OVERLOADED."""
        end = min(file.size_bytes, start + length)
        if self._readers >= MAX_READERS:
            raise TollbridgeError(Code.OVERLOADED, "Too many files are read now; try again.", retry_after_s=1)
        self._readers += 1
        try:
            while start < end:
                data = await self._results.read(file.file_id, start=start, length=min(SLICE_BYTES, end - start))
                if not data:
                    raise _not_found()
                for at in range(0, len(data), PIECE_BYTES):
                    yield data[at : at + PIECE_BYTES]
                start += len(data)
        finally:
            self._readers -= 1

    async def check_link(self, file_id: str, *, expires_s: int, signature: str) -> None:
        """Raises NOT_FOUND for a link that is not good, UNAVAILABLE."""
        secrets, now_s = await self._link_secrets(), self._clock()
        if not links.is_good(secrets, file_id, expires_s=expires_s, signature=signature, now_s=now_s):
            raise TollbridgeError(Code.NOT_FOUND, "This link is not valid, or not any more.")

    async def delete(self, file_id: str, *, customer_id: str) -> None:
        """Removes a customer's file. Raises NOT_FOUND, UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            found = await file_store.with_owner(conn, file_id)
        if found is None or customer_id not in ("", found[1]):
            raise _not_found()
        await self._retention.remove((file_id,))

    async def delete_all(self, job: Job) -> None:
        """Removes what a task that has ended made, and notes that it is deleted. Raises UNAVAILABLE."""
        await self._retention.remove([file.file_id for file in job.results])
        async with db.transaction(self._pool) as conn:  # last, so that whoever is told of a failure may ask again
            await store.delete(conn, job.order.id)

    async def _link_secrets(self) -> Sequence[bytes]:
        """They don't change while a process lives."""
        if not self._secrets:
            async with db.transaction(self._pool) as conn:
                self._secrets = await file_store.link_secrets(conn)
        return self._secrets


def _not_found() -> TollbridgeError:
    return TollbridgeError(Code.NOT_FOUND, "There is no such file.")
