"""Files of tasks, read in slices: each in a call of its own, the next once the client has taken the one before.

So a download lasts as long as its client reads, whatever becomes of the replica of tasks that began it, and neither
side keeps more than a slice for the sake of a slow one. A file never changes under its id, so slices fit together.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from tollbridge.tasks.v1 import tasks_pb2

SLICE_BYTES = 1 << 20
SLICE_TIMEOUT_S = 30.0
READ_TRIES = 5
"""Of a file that is part of a paid answer: an error would be retried, as a second job with a second charge; and of
every later slice, since what a client has of a file is lost with it."""
READ_PAUSE_S = 1.0
PASSES = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.OVERLOADED})
"""What goes away by itself."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """A file, open, with the slice that was read of it, which is let go once it was given out.

    Whoever opened it may read it: that is not asked again.
    """

    file_id: str
    content_type: str
    size: int
    _tasks: PipeClient
    _at: int
    _read: list[bytes] = dataclasses.field(repr=False)

    async def pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        """Its bytes from `start` to before `end`."""
        if start == self._at and self._read:
            start = min(end, start + len(self._read[0]))
            yield self._read.pop()[: end - self._at]
        while start < end:
            request = tasks_pb2.GetResultRequest(
                file_id=self.file_id, offset=start, length=min(SLICE_BYTES, end - start)
            )
            data = (await _slice(self._tasks, request, tries=READ_TRIES)).data
            if not data:
                raise TollbridgeError(Code.NOT_FOUND, "There is no such file.")
            yield data
            start += len(data)


async def opened(tasks: PipeClient, request: tasks_pb2.GetResultRequest, *, tries: int = 1) -> TaskFile:
    """The file, with the part that was asked for. Raises NOT_FOUND, after some tries what passes by itself."""
    found = await _slice(tasks, request, tries=tries)
    return TaskFile(
        file_id=request.file_id,
        content_type=found.content_type,
        size=found.size,
        _tasks=tasks,
        _at=request.offset if request.offset >= 0 else max(0, found.size + request.offset),
        _read=[found.data],
    )


async def _slice(tasks: PipeClient, request: tasks_pb2.GetResultRequest, *, tries: int) -> tasks_pb2.GetResultResponse:
    """All messages of a call as one."""
    while True:
        tries -= 1
        whole = tasks_pb2.GetResultResponse()
        parts: list[bytes] = []
        try:
            async for piece in tasks.stream(
                "GetResult", request, tasks_pb2.GetResultResponse, timeout_s=SLICE_TIMEOUT_S
            ):
                parts.append(piece.data)
                if not whole.content_type:
                    whole.content_type, whole.size = piece.content_type, piece.size
            whole.data = b"".join(parts)
            return whole
        except TollbridgeError as error:
            if tries <= 0 or error.code not in PASSES:
                raise
        await asyncio.sleep(READ_PAUSE_S)
