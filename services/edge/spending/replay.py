"""What dead incarnations left behind: their finished records are published, their started ones voided.

The running edge looks for them, at its start and then every few seconds: a former process of this replica, or a sibling
on the same disk that died. What it had of providers' slots and of limits is given back at once. A spool is locked while
it is worked on, and deleted when billing has everything that was in it and its spender's claims and credit leases are
closed, so a replay that dies itself is done again by whoever looks next. A living incarnation keeps its lock and is
left alone.

Its claims on idempotency keys wait for its events: who takes one over runs under the first request id, and must find
how that one ended, or be charged after its void.
"""

import asyncio
import collections
import contextlib
import functools
import random
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog

from chassis.errors import TollbridgeError
from chassis.ids import now_floor
from services.edge.idempotency.claims import Claims
from services.edge.limits.limit_owner import LimitOwner
from services.edge.owners import BillingOwner, RouterOwner
from services.edge.spending.settlement import voided
from services.edge.spool.spool import FormerSpool, Kind, Record, former
from tollbridge.usage.v1 import usage_pb2

LOOK_EVERY_S = 3.0
ROOM = 20_000
"""Former events wait while so many are on their way, so that a long replay doesn't push out requests."""
ROOM_PAUSE_S = 0.1


class Outbox(Protocol):
    """Who carries the events to billing (`publisher.Publisher`)."""

    def __len__(self) -> int: ...

    def add_former(self, event: usage_pb2.UsageRecorded, *, forget: Callable[[], None]) -> None: ...


class Replay:
    """The replays of one process. Its owner runs `run()` as a task.

    `free_shares` gives back what others may wait for of an incarnation that is no more, and `end_spender` closes its
    claims and credit leases, once nothing of it is left to charge.
    """

    def __init__(
        self,
        *,
        directory: Path,
        own: UUID,
        outbox: Outbox,
        free_shares: Callable[[str], Awaitable[None]],
        end_spender: Callable[[str], Awaitable[None]],
    ) -> None:
        self._directory = directory
        self._own = own
        self._outbox = outbox
        self._free_shares = free_shares
        self._end_spender = end_spender
        self._unfreed: set[UUID] = set()
        self._found: collections.deque[FormerSpool] = collections.deque()
        self._is_found = asyncio.Event()
        self._left: dict[FormerSpool, set[bytes]] = {}
        self._emptied = asyncio.Event()
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Looks until cancelled; what is not done then is another's to find.

        Nobody's slots wait for the events of another that has died: those may wait long for room, and for billing.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_forever())
                group.create_task(self._take_forever())
                group.create_task(self._end_forever())
        finally:
            for spool in (*self._found, *self._left):
                spool.close()

    async def _look_forever(self) -> None:
        """Replicas on one disk don't all look at once."""
        while True:
            try:
                self._find(await asyncio.to_thread(lambda: list(former(self._directory, own=self._own))))
            except OSError as error:
                self._log.error("spools_not_read", reason=str(error))
            await asyncio.gather(*(self._free(incarnation) for incarnation in self._unfreed))
            await asyncio.sleep(_pause_s())

    async def _take_forever(self) -> None:
        while True:
            await self._is_found.wait()
            while self._found:
                await self._take(self._found[0])
                self._found.popleft()
            self._is_found.clear()

    async def _end_forever(self) -> None:
        """A spool that is done is ended at once, or when billing can be told."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_pause_s()):  # wait_for may lose a cancellation
                    await self._emptied.wait()
            self._emptied.clear()
            for spool in [spool for spool, left in self._left.items() if not left]:
                await self._end(spool)

    def _find(self, spools: Iterable[FormerSpool]) -> None:
        for spool in spools:
            self._unfreed.add(spool.incarnation)
            self._found.append(spool)
            self._is_found.set()

    async def _free(self, incarnation: UUID) -> None:
        try:
            await self._free_shares(str(incarnation))
        except TollbridgeError as error:
            self._log.warning("shares_not_freed", incarnation=str(incarnation), code=error.code.value)
        else:
            self._unfreed.discard(incarnation)

    async def _take(self, spool: FormerSpool) -> None:
        try:
            events = await asyncio.to_thread(unconfirmed, spool.records())
        except OSError as error:
            spool.close()
            self._log.error("spool_not_read", incarnation=str(spool.incarnation), reason=str(error))
            return
        left = self._left[spool] = {UUID(event.request_id).bytes for event in events}
        self._log.info("spool_found", incarnation=str(spool.incarnation), events=len(events))
        for event in events:
            while len(self._outbox) >= ROOM:  # noqa: ASYNC110  any of many confirmations makes room
                await asyncio.sleep(ROOM_PAUSE_S)
            key = UUID(event.request_id).bytes
            self._outbox.add_former(event, forget=functools.partial(self._forget, left, key))
        if not left:
            self._emptied.set()

    def _forget(self, left: set[bytes], key: bytes) -> None:
        left.discard(key)
        if not left:
            self._emptied.set()

    async def _end(self, spool: FormerSpool) -> None:
        try:
            await self._end_spender(str(spool.incarnation))
        except TollbridgeError as error:
            self._log.warning("spender_not_ended", incarnation=str(spool.incarnation), code=error.code.value)
            return
        await asyncio.to_thread(spool.delete)
        del self._left[spool]
        self._log.info("spool_replayed", incarnation=str(spool.incarnation))


def _pause_s() -> float:
    return LOOK_EVERY_S * random.uniform(0.8, 1.2)


async def free_shares(spender: str, *, router: RouterOwner, limits: LimitOwner) -> None:
    """Gives back what a dead incarnation held of what is shared: its process, and so its calls, are no more.

    Each of the two also when the other can't be told.
    """
    told = await asyncio.gather(
        router.state_attempts([], as_of=str(now_floor()), spender=spender),
        limits.end(spender=spender),
        return_exceptions=True,
    )
    for failure in told:
        if isinstance(failure, BaseException):
            raise failure


async def end_spender(spender: str, *, billing: BillingOwner, claims: Claims) -> None:
    """Closes what an incarnation that is no more still holds, when nothing of it is left to charge."""
    await claims.end_spender(spender)
    await billing.state_leases([], as_of=str(now_floor()), spender=spender)


def unconfirmed(records: Iterable[Record]) -> list[usage_pb2.UsageRecorded]:
    """One event for each request that was not forgotten: its end, else its note, else a void made of its beginning.

    A note is the end of a request that came to no other: its client had left. Of a request that was run again, since
    its answer was lost, the charge counts: a void in its place would have it forgotten.
    """
    # What was forgotten is not read: the spool itself leaves it out.
    started: dict[bytes, usage_pb2.UsageRecorded] = {}
    noted: dict[bytes, usage_pb2.UsageRecorded] = {}
    finished: dict[bytes, usage_pb2.UsageRecorded] = {}
    for record in records:
        event = usage_pb2.UsageRecorded.FromString(record.payload)
        if record.kind is Kind.STARTED:
            started[record.key] = event
        elif record.kind is Kind.NOTE:
            noted[record.key] = event
        elif record.key not in finished or event.kind == usage_pb2.USAGE_KIND_CHARGE:
            finished[record.key] = event
    voids = {key: voided(event) for key, event in started.items() if key not in noted and key not in finished}
    return list((voids | noted | finished).values())
