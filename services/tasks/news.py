"""What tasks' processes tell each other of jobs over core NATS: hints, so that nobody has to look ten times a second.

Whoever waits for a job looks again when there is news of it, and now and then anyway: a hint may be missed.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError

from chassis.bus import Bus
from chassis.errors import TollbridgeError
from services.tasks import events
from services.tasks.jobs import Job
from tollbridge.tasks.v1 import tasks_pb2 as pb


class News:
    """One process's ear and voice. `on_end` is called with the id of each job that has ended, wherever that was."""

    def __init__(self, *, on_end: Callable[[str], None] = lambda _: None) -> None:
        self._on_end = on_end
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextlib.contextmanager
    def of(self, task_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when there is news of a job; its holder clears it."""
        event = asyncio.Event()
        events_of_job = self._waiting.setdefault(task_id, set())
        events_of_job.add(event)
        try:
            yield event
        finally:
            events_of_job.discard(event)
            if not events_of_job and self._waiting.get(task_id) is events_of_job:
                del self._waiting[task_id]

    async def hear_end(self, data: bytes) -> None:
        """A message on `finished`."""
        with contextlib.suppress(DecodeError):
            task_id = pb.TaskFinished.FromString(data).task.id
            self._on_end(task_id)
            self._wake(task_id)

    async def hear_step(self, data: bytes) -> None:
        """A message on `progressed`."""
        with contextlib.suppress(DecodeError):
            self._wake(pb.TaskProgressed.FromString(data).task.id)

    def _wake(self, task_id: str) -> None:
        for event in self._waiting.get(task_id, ()):
            event.set()


class StepTeller:
    """Says how far jobs are to whoever listens."""

    def __init__(self, *, bus: Bus) -> None:
        self._bus = bus

    async def tell(self, job: Job) -> None:
        """Best effort: who misses it looks for itself."""
        with contextlib.suppress(TollbridgeError):
            await self._bus.announce(events.PROGRESSED, events.progressed(job))
