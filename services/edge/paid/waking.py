"""A process that stood still for longer than its leases live ends its calls as it goes on.

Suspended, starved or asleep with its machine, it stated nothing: owners have given its slots and permits to others, and
a call that ran on would be one too many at its provider. Nothing is charged for what is cut. A process that merely
can't reach an owner runs on: while nobody can be told, nobody else is told either.
"""

import asyncio
from collections.abc import Callable

import structlog

from services.edge.spending.purse import lasting_clock

LOOK_EVERY_S = 1.0
STOOD_STILL_S = 20.0
"""No busy loop takes so long. Whoever states every 10 s does not lapse in less than this and a little."""
LIVES_S = 30.0
"""How long what is held lives without a statement, by its spender's clock; its owner waits a little longer."""


class Waking:
    """Watches the clock. Its owner runs `run()` as a task.

    `told_at_s` is when owners were last told what runs, by `clock`, which counts on while the machine sleeps; `cut`
    ends all that runs and says how much that is.
    """

    def __init__(
        self, *, told_at_s: Callable[[], float], cut: Callable[[], int], clock: Callable[[], float] = lasting_clock
    ) -> None:
        self._told_at_s = told_at_s
        self._cut = cut
        self._clock = clock
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Looks every second until cancelled."""
        seen_s, told_s = self._clock(), self._told_at_s()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = self._clock()
            # What was told before: a statement may have been the first to wake, and then is too late.
            if now_s - seen_s > STOOD_STILL_S and now_s - told_s > LIVES_S:
                self._log.error("stood_still", seconds=round(now_s - seen_s), cut=self._cut())
            seen_s, told_s = now_s, self._told_at_s()
