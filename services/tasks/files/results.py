"""The files that jobs make: their ids, their bounds, and what a store of them must offer.

`results_store.py` and `s3_store.py` are such stores.
Whole files are held in memory while they are made and stored, which is why MAX_FILE_BYTES bounds them; they are read
in slices, so that a slow reader keeps no more than one.
"""

import uuid
from typing import Protocol

MAX_FILE_BYTES = 64 * 1024 * 1024
SLICE_BYTES = 1024 * 1024
"""What is asked of the store at once."""
PIECE_BYTES = 256 * 1024
"""What is in one message."""


def file_id(task_id: str, position: int) -> str:
    """The id of a job's file: the same for every run of the job."""
    return str(uuid.uuid5(uuid.UUID(task_id), f"result {position}"))


class Results(Protocol):
    """A store of files."""

    async def put(self, file_id: str, data: bytes) -> None:
        """Keeps a file; the same id again replaces it. Raises UNAVAILABLE."""

    async def read(self, file_id: str, *, start: int, length: int) -> bytes:
        """So many bytes of a file from `start` on, at least one; fewer where it ends. Raises NOT_FOUND, UNAVAILABLE."""

    async def delete(self, file_id: str) -> None:
        """Removes a file; that there is none is no failure. Raises UNAVAILABLE."""

    async def close(self) -> None:
        """Ends the connections."""
