"""Delivering webhooks: each is tried until it is taken, with growing pauses, for a day at most.

Whoever has a table of webhooks says which are due and keeps what became of them; this is the loop between. Any replica
may take what is due; it is then its own for KEEP_S, and whoever dies with it loses nothing but that time. So a webhook
may come twice, with one id. A customer has one try under way at a time in each process: who is slow to answer holds up
nobody but themselves.
"""

import asyncio
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from chassis.errors import TollbridgeError
from upstream.webhooks import Delivery

AT_ONCE = 16
KEEP_S = 60
"""Longer than a try can take."""
LOOK_S = 1.0
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 14_400, 14_400, 14_400)
GIVE_UP_AFTER_S = 86_400
KEPT_DAYS = 30
FORGET_EVERY = 3600
FORGET_AT_ONCE = 1000


class Taken(Protocol):
    """A webhook that is tried now, for the `tries`-th time, and how old it is."""

    @property
    def id(self) -> UUID | str:
        """The same at each try."""

    @property
    def customer_id(self) -> str:
        """Whose it is."""

    @property
    def tries(self) -> int:
        """From 1."""

    @property
    def age_s(self) -> float:
        """Since its cause."""


T = TypeVar("T", bound=Taken)


class Due(Protocol[T]):
    """The webhooks of a table. All but `send` raise UNAVAILABLE."""

    async def take(self, *, limit: int, busy: Sequence[str], keep_s: int) -> Sequence[T]:
        """Some that are due, one of each customer who is not in `busy`; nobody else takes them within `keep_s`."""

    async def send(self, taken: T) -> Delivery:
        """Tries once; never raises but when cancelled."""

    async def end(self, taken: T, *, problem: str) -> None:
        """It was taken, or (with a problem) is given up."""

    async def postpone(self, taken: T, *, pause_s: int, problem: str) -> None:
        """It is due again after a pause."""

    async def forget(self, *, kept_days: int, limit: int) -> None:
        """Drops some of those that ended so long ago."""


class WebhookDeliveries(Generic[T]):
    """The loop that delivers."""

    def __init__(self, *, due: Due[T], log: FilteringBoundLogger) -> None:
        self._due = due
        self._log = log
        self._under_way: dict[asyncio.Task[None], str] = {}

    async def run(self) -> None:
        """Delivers until cancelled, and the tries under way with it; trouble with the database is a pause."""
        looks = 0
        async with asyncio.TaskGroup() as tries:
            while True:
                try:
                    if looks % FORGET_EVERY == 0:
                        await self.forget()
                    looks += 1
                    await self.look(tries)
                except TollbridgeError as error:
                    self._log.warning("webhooks_delayed", reason=error.message)
                await self._pause()

    async def look(self, tries: asyncio.TaskGroup) -> None:
        """Starts tries of what is due while there are places. Raises UNAVAILABLE."""
        places = AT_ONCE - len(self._under_way)
        if not places:
            return
        for each in await self._due.take(limit=places, busy=list(self._under_way.values()), keep_s=KEEP_S):
            task = tries.create_task(self._try(each))
            self._under_way[task] = each.customer_id
            task.add_done_callback(self._under_way.pop)

    async def forget(self) -> None:
        """Drops some of those that ended KEPT_DAYS ago. Raises UNAVAILABLE."""
        await self._due.forget(kept_days=KEPT_DAYS, limit=FORGET_AT_ONCE)

    async def _pause(self) -> None:
        """Until a try ends, because its customer's next may be due then, or for LOOK_S."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(LOOK_S)

    async def _try(self, taken: T) -> None:
        done = await self._due.send(taken)
        pause_s = PAUSES_S[min(taken.tries, len(PAUSES_S)) - 1]
        gives_up = done.final or taken.age_s + pause_s > GIVE_UP_AFTER_S
        try:
            if not done.problem or gives_up:
                await self._due.end(taken, problem=done.problem)
            else:
                await self._due.postpone(taken, pause_s=pause_s, problem=done.problem)
        except TollbridgeError as error:  # it is due again after KEEP_S
            self._log.warning("webhook_not_noted", webhook_id=str(taken.id), reason=error.message)
        if done.problem:
            event = "webhook_given_up" if gives_up else "webhook_postponed"
            self._log.info(event, webhook_id=str(taken.id), customer_id=taken.customer_id, reason=done.problem)
