"""The provider slots that this incarnation holds: listed to router until given back.

An attempt is listed from before router is asked, so a decision whose reply was lost is freed by router only once it is
no longer waited for. Giving back never blocks a request: if router can't be told now, the next statement tells it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from chassis.errors import TollbridgeError
from chassis.ids import now_floor
from services.edge.spending.purse import lasting_clock
from upstream.attempt import Tried
from upstream.outcome import Outcome

STATEMENT_EVERY_S = 10.0
MIN_STATEMENT_S = 1.0
RETRY_STATEMENT_S = 1.0
FINISH_LIMIT = 1024
"""Ends under way at once; what is beyond is freed by the next statement."""


class SlotKeeper(Protocol):
    """What is asked of router (`owners.RouterOwner`)."""

    async def finish_attempt(self, *, request_id: str, attempt: Tried) -> None: ...

    async def state_attempts(self, attempt_ids: Sequence[str], *, as_of: str) -> float: ...


class Attempts:
    """One incarnation's running attempts. Its owner runs `run()` as a task and calls `drain()` at the end."""

    def __init__(self, *, router: SlotKeeper, clock: Callable[[], float] = lasting_clock) -> None:
        self._router = router
        self._clock = clock
        self.told_at_s = clock()
        """When router was last asked to keep all that runs, and did."""
        self._running: set[str] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, attempt_id: str) -> None:
        """From now on it is listed. Called before router is asked for it."""
        self._running.add(attempt_id)

    def forget(self, attempt_id: str) -> None:
        """Router gave no slot, or has taken it back by the next decision."""
        self._running.discard(attempt_id)

    def undecided(self, *, request_id: str, attempt_id: str, error: BaseException) -> None:
        """The decision was not waited for to its end, or refused. One nobody waited for may have taken a slot."""
        if isinstance(error, asyncio.CancelledError):
            nobody = Tried(attempt_id=attempt_id, provider_account_id="", outcome=Outcome.CANCELLED)
            self.finish(request_id=request_id, attempt=nobody)
        else:
            self.forget(attempt_id)

    def finish(self, *, request_id: str, attempt: Tried) -> None:
        """Nothing follows this attempt. Returns at once; the call to router is owned here."""
        self._running.discard(attempt.attempt_id)
        if len(self._finishing) >= FINISH_LIMIT:
            return
        task = asyncio.create_task(self._tell(request_id, attempt), name="finish-attempt")
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def run(self) -> None:
        """States all running attempts until cancelled."""
        while True:
            due_s = await self.state()
            await asyncio.sleep(due_s)

    async def state(self) -> float:
        """One full statement; returns the seconds until the next."""
        asked_at_s = self._clock()
        try:
            renew_in_s = await self._router.state_attempts(list(self._running), as_of=str(now_floor()))
        except TollbridgeError as error:
            self._log.warning("attempt_statement_failed", code=error.code.value, attempts=len(self._running))
            return RETRY_STATEMENT_S
        self.told_at_s = asked_at_s
        return max(MIN_STATEMENT_S, min(renew_in_s or STATEMENT_EVERY_S, STATEMENT_EVERY_S))

    async def drain(self) -> None:
        """Finishes what is under way and states the rest once more."""
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=RETRY_STATEMENT_S)
        await self.state()

    async def _tell(self, request_id: str, attempt: Tried) -> None:
        try:
            await self._router.finish_attempt(request_id=request_id, attempt=attempt)
        except TollbridgeError as error:
            self._log.info("finish_attempt_failed", attempt_id=attempt.attempt_id, code=error.code.value)
