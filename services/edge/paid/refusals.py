"""How often requests were refused, by key, code and minute: counted in memory, told to auth every few seconds.

What is told are totals, so that telling them twice is telling them once; a minute that is over and told is forgotten.
Memory is bounded: beyond so many keys at once all others count together, as requests without a key do; and while auth
can't be told for an hour the oldest minutes are let go. A process that is killed takes with it what it has not told.
"""

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import structlog

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from tollbridge.auth.v1 import auth_pb2

TELL_EVERY_S = 5.0
TIMEOUT_S = 5.0
AT_ONCE = 1000
MOST_CELLS = 20_000
"""By key; those without a key are bounded by the number of codes and of minutes."""
KEPT_MINUTES = 60

Cell = tuple[int, str, Code]
"""Minute since the epoch, key's id or nothing, and why."""


class Refusals:
    """The counts of this process."""

    def __init__(self, *, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._counts: dict[Cell, int] = {}
        self._untold: set[Cell] = set()

    def __len__(self) -> int:
        """How many counts are kept."""
        return len(self._counts)

    def count(self, key_id: str, code: Code) -> None:
        """One request was refused."""
        cell = (int(self._now_s()) // 60, key_id, code)
        if cell not in self._counts and len(self._counts) >= MOST_CELLS:
            cell = (cell[0], "", code)
        self._counts[cell] = self._counts.get(cell, 0) + 1
        self._untold.add(cell)

    def untold(self) -> list[tuple[Cell, int]]:
        """What has grown since it was told, oldest first, as totals."""
        return [(cell, self._counts[cell]) for cell in sorted(self._untold)]

    def told(self, counts: list[tuple[Cell, int]]) -> None:
        """They are auth's now, but for what was added meanwhile."""
        for cell, total in counts:
            if self._counts.get(cell) == total:
                self._untold.discard(cell)

    def forget_old(self) -> None:
        """Lets go of minutes that are over and told, and of those that are too old."""
        minute = int(self._now_s()) // 60
        for cell in list(self._counts):
            if (cell[0] < minute and cell not in self._untold) or cell[0] < minute - KEPT_MINUTES:
                del self._counts[cell]
                self._untold.discard(cell)


class RefusalTeller:
    """Tells auth. `run` is a loop that the process's lifecycle owns."""

    def __init__(self, *, refusals: Refusals, auth: PipeClient, spender: UUID) -> None:
        self._refusals = refusals
        self._auth = auth
        self._spender = str(spender)
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Tells until cancelled; what could not be told is told the next time."""
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            await self.tell()

    async def tell(self) -> None:
        """Tells what is not told yet, as much of it as auth takes; raises nothing."""
        waiting = self._refusals.untold()
        for start in range(0, len(waiting), AT_ONCE):
            some = waiting[start : start + AT_ONCE]
            counts = [
                auth_pb2.RefusalCount(minute=minute, key_id=key_id, code=code.value, count=total)
                for (minute, key_id, code), total in some
            ]
            try:
                await self._auth.call(
                    "RecordRefusals",
                    auth_pb2.RecordRefusalsRequest(spender=self._spender, counts=counts),
                    auth_pb2.RecordRefusalsResponse,
                    timeout_s=TIMEOUT_S,
                )
            except TollbridgeError as error:
                self._log.warning("refusals_not_told", counts=len(waiting) - start, code=error.code.value)
                break
            self._refusals.told(some)
        self._refusals.forget_old()
