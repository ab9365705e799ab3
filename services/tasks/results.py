"""The files that jobs make: their ids, their bounds, and what a store of them must offer.

`results_store.py` and `s3_store.py` are such stores.
Whole files are held in memory while they pass, which is why MAX_FILE_BYTES bounds them.
"""

import uuid
from collections.abc import AsyncIterator
from typing import Protocol

MAX_FILE_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 256 * 1024


def file_id(task_id: str, position: int) -> str:
    """The id of a job's file: the same for every run of the job."""
    return str(uuid.uuid5(uuid.UUID(task_id), f"result {position}"))


class Results(Protocol):
    """A store of files."""

    async def put(self, file_id: str, data: bytes) -> None:
        """Keeps a file; the same id again replaces it. Raises UNAVAILABLE."""

    async def get(self, file_id: str) -> bytes:
        """A file. Raises NOT_FOUND or UNAVAILABLE."""

    async def delete(self, file_id: str) -> None:
        """Removes a file; that there is none is no failure. Raises UNAVAILABLE."""

    async def close(self) -> None:
        """Ends the connections."""


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """A file in pieces that fit a message; an empty file is one empty piece."""
    for start in range(0, max(1, len(data)), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
