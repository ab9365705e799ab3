"""How long one exchange waits for its provider and its client: for ever, until its end is set.

Whoever sets it is another task (the client's leaving, the process's end), and interrupts what waits by it: so an
exchange is stopped without being cancelled, and goes on to close its accounts.
"""

import asyncio
from collections.abc import Callable


class Patience:
    """One exchange's. What its task waits for within `waiting()` raises TimeoutError at the end that is set.

    `sending` says whether a write to the client waits now.
    """

    __slots__ = ("_end_s", "_loop", "_sending", "_timeout")

    def __init__(self, *, sending: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sending = sending
        self._timeout: asyncio.Timeout | None = None
        self._end_s: float | None = None

    @property
    def has_end(self) -> bool:
        """Whether nobody waits for ever any more."""
        return self._end_s is not None

    @property
    def has_time_left(self) -> bool:
        """Whether its end is set, and still to come."""
        return self._end_s is not None and self._loop.time() < self._end_s

    def waiting(self) -> asyncio.Timeout:
        """For `async with`: waits no longer than until the end. One at a time."""
        self._timeout = asyncio.timeout_at(self._end_s)
        return self._timeout

    def end_at(self, end_s: float) -> None:
        """Moves the end. A write that waits is interrupted at once: nobody reads it."""
        self._end_s = end_s
        if self._timeout is None or self._timeout.expired():
            return
        with_write = self._loop.time() if self._sending() else end_s
        try:
            self._timeout.reschedule(with_write)
        except RuntimeError:  # between two waits: the next one begins with the new end
            self._timeout = None
