"""Time in which this process ran: it stands still while the process does.

A process that is paused, starved or asleep within a wait finds on its clock that whom it waited for was silent for
long. Who judges others by their silence measures it by this time: it is counted in steps, and a stop, however long, is
one of them. So it is right within a step at either end, and for stops, and of no use for anything shorter.
"""

import asyncio

STEP_S = 0.25


class AwakeTime:
    """Its owner runs `run()` as a task; nothing passes before."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0
        """Since the task began."""

    async def run(self) -> None:
        """Counts until cancelled."""
        while True:
            await asyncio.sleep(STEP_S)
            self.step()

    def step(self) -> None:
        """A step was taken."""
        self.seconds += STEP_S
