"""A process that stood still for longer than its leases live ends its calls as it goes on.

Suspended, starved or asleep with its machine, it stated nothing: owners have given its slots and permits to others, and
a call that ran on would be one too many at its provider. Nothing is charged for what is cut. A process that merely
can't reach an owner runs on: while nobody can be told, nobody else is told either.

Which of the two it was is told by how often it looked: once a second while it runs. One long stop is as good as many.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from services.edge.spending.purse import lasting_clock

LOOK_EVERY_S = 1.0
LIVES_S = 30.0
"""How long what is held lives without a statement, by its spender's clock; its owner waits a little longer."""
STOOD_STILL_S = 20.0
"""Of LIVES_S. No busy loop takes so long. Whoever states every 10 s does not lapse in less than this and a little."""
_LOOKS = round((LIVES_S - STOOD_STILL_S) / LOOK_EVERY_S)


class Holder(Protocol):
    """Who holds what an owner may give to others (`Attempts`, `Limits`)."""

    @property
    def told_at_s(self) -> float:
        """When its owner was last asked to keep all that is held, and did."""


class Waking:
    """Watches the clock. Its owner runs `run()` as a task.

    `clock` is the one of its holders, and counts on while the machine sleeps; `cut` ends all that runs and says how
    much that is.
    """

    def __init__(
        self, *, holders: Sequence[Holder], cut: Callable[[], int], clock: Callable[[], float] = lasting_clock
    ) -> None:
        self._holders = holders
        self._cut = cut
        self._clock = clock
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Looks every second until cancelled."""
        looks = collections.deque([self._clock()] * _LOOKS, maxlen=_LOOKS)
        cut_s = 0.0
        told_s = self._told_at_s()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = self._clock()
            # What was told before: a statement may have been the first to wake, and then is too late.
            if max(told_s, looks[0]) < now_s - LIVES_S:
                self._log.error("stood_still", seconds=round(now_s - looks[-1]), cut=self._cut())
                cut_s = now_s  # what begins from now on has shares of its own
            looks.append(now_s)
            told_s = max(cut_s, self._told_at_s())

    def _told_at_s(self) -> float:
        """By the owner that has heard nothing for longest."""
        return min(holder.told_at_s for holder in self._holders)
