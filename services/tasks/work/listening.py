"""Since when this process has heard what workers say: what it has not heard means something only after that long.

Workers say that they live by renewing their claims in the database. Who stood still, or had no database, finds lapsed
claims of workers that are well, its own among them: they get a whole lease to renew them before any is called silent.
"""

import time
from collections.abc import Callable

BROKEN_S = 10.0
"""A look that ends so long after the one before was made by who stood still, or of a database that did."""
_LASTING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lasting_clock() -> float:
    """Seconds since some moment, the machine's sleep among them."""
    return time.clock_gettime(_LASTING)


class Listening:
    """The stretch without a gap that lasts until now; it begins with the process."""

    def __init__(self, *, clock: Callable[[], float] = lasting_clock) -> None:
        self._clock = clock
        self._since_s = self._last_s = clock()

    def goes_on(self) -> float:
        """To be said at the end of each look, every few seconds; how long the stretch is."""
        now_s = self._clock()
        if now_s - self._last_s > BROKEN_S:
            self._since_s = now_s
        self._last_s = now_s
        return now_s - self._since_s

    def broke(self) -> None:
        """A look failed."""
        self._since_s = self._last_s = self._clock()
