"""The spool's second thread: the disk takes milliseconds for a sync, which the event loop does not have.

An executor's futures would take a tenth of a millisecond of the loop's time for each of its fifty syncs a second.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeAlias

Done: TypeAlias = Callable[[OSError | None], None]


class Syncer:
    """Runs syncs one after another. Its owner calls `close()`; a process that just ends does not wait for it."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Callable[[], None], Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool-sync", daemon=True)
        self._thread.start()

    def submit(self, descriptors: Sequence[int], sync: Callable[[], None], done: Done) -> None:
        """Runs `sync`, which syncs these files, in the thread, then `done` in the loop, with what it raised."""
        self._jobs.put((sync, done))

    def close(self) -> None:
        """Waits for what was submitted; `done` of it may never run."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            sync, done = job
            error: OSError | None = None
            try:
                sync()
            except OSError as failure:
                error = failure
            except Exception as failure:  # noqa: BLE001  who waits must hear of it, and the next has its turn
                error = OSError(f"a sync failed: {failure!r}")
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(done, error)
