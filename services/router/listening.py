"""Since when this replica has heard all that was said: what it has not heard means something only after that long.

Silence frees the slots of a spender, so a replica that stood still, or had no database, must not take its own deafness
for silence: it listens for a whole lease before it calls anybody silent.
"""

import time
from collections.abc import Callable

BROKEN_S = 10.0
"""A look that comes so late was made by who stood still: stopped, starved, or asleep with the whole machine."""
_LASTING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lasting_clock() -> float:
    """Seconds since some moment, the machine's sleep among them."""
    return time.clock_gettime(_LASTING)


class Listening:
    """The stretch without a gap that lasts until now. `clock` counts seconds, also while the machine sleeps."""

    def __init__(self, *, clock: Callable[[], float] = lasting_clock) -> None:
        self._clock = clock
        self._since_s = self._last_s = clock()

    def goes_on(self) -> float:
        """To be said every few seconds while all is well; the seconds since it is."""
        now_s = self._clock()
        if now_s - self._last_s > BROKEN_S:
            self._since_s = now_s
        self._last_s = now_s
        return now_s - self._since_s

    def broke(self) -> None:
        """There was trouble until now."""
        self._since_s = self._last_s = self._clock()
