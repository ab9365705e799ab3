"""What keeps leases alive and ends them: spenders' statements, returns, and the loop that expires what fell silent.

Nothing expires in the first TTL after this process started, stood still or got its database back (`listening`): while
we could not hear them, spenders could not state their leases, and their requests may well be running.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from services.billing import letter_store, store
from services.billing.books import Books
from services.billing.figures import Figures
from services.billing.holding import hold_store
from services.billing.holding.holds import Hold, HoldState
from services.billing.ledger import MAX_AMOUNT
from services.billing.listening import Listening

TTL_S = 30.0
GRACE_S = 10.0
LEASE_LIVES_S = TTL_S + GRACE_S
RENEW_IN_S = TTL_S / 3
MAX_RELEASED = 1000
"""Holds that one transaction releases."""
MAX_STEPS = 50
"""Transactions of one page: the last words of a spender are said once, and nobody goes on where they ended."""
EXPIRY_PAUSE_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """One lease in a spender's statement, in nano-USD: drawn by running requests, and spent but not yet confirmed.

    Besides, what may still be drawn, and all that was given back since it was granted.
    """

    hold_id: UUID
    open_nano_usd: int
    spent_nano_usd: int
    free_nano_usd: int = 0
    returned_nano_usd: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A lease of which a statement says what can't be, or that the database refuses to change; the id as it came."""

    hold_id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a spender is told: the listed leases that are no open lease of its own, and those it is wrong about."""

    gone: Sequence[UUID]
    refused: Sequence[Refused] = ()


FIRST_ID, LAST_ID = UUID(int=0), UUID(int=(1 << 128) - 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a spender's statement, made at `as_of`: what lives of its leases in [from, until).

    A lapsed lease ends only when its spender has ended: a living one no longer lists it while its request may run on.
    Of `refused` ones nothing can be believed but that they live.
    """

    spender: str
    as_of: UUID
    leases: Sequence[Stated] = ()
    refused: Sequence[Refused] = ()
    from_id: UUID = FIRST_ID
    until_id: UUID = LAST_ID
    spender_ended: bool = False


class Leases:
    """Statements and returns. Stateless: any replica serves any spender."""

    def __init__(self, *, pool: db.Pool, figures: Figures, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._figures = figures
        self._log = log

    async def state(self, page: Page) -> Answer:
        """Frees what is given back, renews what is listed and frees what in the page's range is not.

        The order matters: a lease counts as answered for (see `Grants`) only when what its spender gave back is there
        to be granted. A hold that a spender doesn't list it will never list again, so a page that is late or comes
        twice frees only what was to be freed anyway, and what is younger than the statement is in no page's range.
        One lease that is refused keeps no other from its due.
        """
        unfinished = {
            lease.hold_id: (lease.open_nano_usd + lease.spent_nano_usd, lease.free_nano_usd > 0)
            for lease in page.leases
        }
        refused = [*page.refused, *await self._take_back(page)]
        # As if all of it were in use, and its spender had not said that nothing of it is free.
        unfinished |= dict.fromkeys(_ids(refused), (MAX_AMOUNT, True))
        listed = sorted(unfinished)

        async def renew(connection: Connection) -> tuple[set[UUID], list[tuple[UUID, str]]]:
            renewed = await hold_store.renew(
                connection,
                spender=page.spender,
                unfinished=[(hold_id, *unfinished[hold_id]) for hold_id in listed],
                as_of=page.as_of,
                lease_lives_s=LEASE_LIVES_S,
            )
            return renewed, await _unlisted(connection, page, listed)

        renewed, unlisted = await db.in_transaction(self._pool, renew)
        for _ in range(MAX_STEPS):
            if unlisted:
                refused += await self._change_each(unlisted, lambda books, hold_id: books.release([hold_id]))
            if len(unlisted) < MAX_RELEASED:
                break
            async with db.transaction(self._pool) as connection:
                unlisted = await _unlisted(connection, page, listed)
        self._tell(page.spender, refused)
        return Answer(gone=[hold_id for hold_id in listed if hold_id not in renewed], refused=refused)

    async def _take_back(self, page: Page) -> Sequence[Refused]:
        """Frees what was given back and is not freed yet; said twice it is freed once, since amounts are in all."""
        returned = {lease.hold_id: lease.returned_nano_usd for lease in page.leases if lease.returned_nano_usd}
        if not returned:
            return ()
        async with db.transaction(self._pool) as connection:
            due = await hold_store.returned(connection, spender=page.spender, returned=sorted(returned.items()))

        def take_back(books: Books, hold_id: UUID) -> None:
            books.give_back(hold_id, returned[hold_id] - books.holds[hold_id].freed_nano_usd)

        return await self._change_each(due, take_back) if due else ()

    async def _change_each(
        self, holds: Sequence[tuple[UUID, str]], change: Callable[[Books, UUID], None]
    ) -> Sequence[Refused]:
        """All together; one by one where the database refuses that. Returns those that it refuses alone, too."""
        try:
            await _change(self._pool, holds, change)
        except store.REFUSED as error:
            self._log.error("holds_refused", holds=len(holds), reason=str(error))
        else:
            return ()
        refused: list[Refused] = []
        for one in holds:
            try:
                await _change(self._pool, [one], change)
            except store.REFUSED as error:
                reason = f"the database refuses to change it: {type(error).__name__}"
                refused.append(Refused(hold_id=str(one[0]), reason=reason))
        return refused

    def _tell(self, spender: str, refused: Sequence[Refused]) -> None:
        """For an operator: a spender's accounts of its leases are wrong, or ours."""
        self._figures.leases_refused.inc(len(refused))
        for each in refused:
            self._log.error("lease_refused", spender=spender, hold_id=each.hold_id, reason=each.reason)

    async def give_back(self, *, hold_id: UUID, spender: str) -> None:
        """Ends a lease. One that is unknown or over is none to give back: nothing happens.

        Raises PERMISSION_DENIED for another spender's lease.
        """
        async with db.transaction(self._pool) as connection:
            owner = await hold_store.owner(connection, hold_id)
        if owner is None:
            return
        if owner[1] != spender:
            raise TollbridgeError(Code.PERMISSION_DENIED, "the hold is another spender's")
        await _change(self._pool, [(hold_id, owner[0])], lambda books, hold_id: books.release([hold_id]))

    async def extend(self, *, hold_id: UUID, deadline_us: int) -> None:
        """Moves a task's or exact hold's deadline to a later time. Raises NOT_FOUND when it is not open."""
        async with db.transaction(self._pool) as connection:
            if not await hold_store.extend(connection, hold_id=hold_id, deadline_us=deadline_us):
                raise TollbridgeError(Code.NOT_FOUND, "no such open hold")


class Expiry:
    """The loop that ends holds whose time is over. Every replica runs it; locks keep them from doing it twice."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        settle_grace_s: Callable[[], int],
        listening: Listening,
        figures: Figures,
        log: FilteringBoundLogger,
        quiet_s: float = TTL_S,
    ) -> None:
        self._pool = pool
        self._settle_grace_s = settle_grace_s
        self._listening = listening
        self._figures = figures
        self._log = log
        self._quiet_s = quiet_s

    async def run(self) -> None:
        """Looks once a second until cancelled."""
        while True:
            await asyncio.sleep(EXPIRY_PAUSE_S)
            await self.look()

    async def look(self) -> int:
        """Ends what is due, unless it is too early to say; returns how many holds changed."""
        try:
            async with db.transaction(self._pool, alone=True) as connection:
                now_us, due = await hold_store.due(connection, limit=MAX_RELEASED)
            listened_s = self._listening.goes_on(now_us)
            if not due or listened_s < self._quiet_s:
                return 0
            return await self._expire_each(due, now_us=now_us)
        except (TollbridgeError, store.DatabaseError) as error:
            if not db.is_unavailable(error):
                raise
            self._listening.broke()
            return 0

    async def _expire_each(self, due: Sequence[tuple[UUID, str]], *, now_us: int) -> int:
        """All together; one by one where the database refuses that, so that one bad hold keeps no other."""
        try:
            return await self._expire(due, now_us=now_us)
        except store.REFUSED as error:
            self._log.error("holds_refused", holds=len(due), reason=str(error))
        ended = 0
        for one in due:
            try:
                ended += await self._expire([one], now_us=now_us)
            except store.REFUSED as error:
                self._log.error("hold_not_expired", hold_id=str(one[0]), customer_id=one[1], reason=str(error))
        return ended

    async def _expire(self, due: Sequence[tuple[UUID, str]], *, now_us: int) -> int:
        grace_s = self._settle_grace_s()

        def expire(books: Books, hold_id: UUID) -> None:
            books.expire(hold_id, now_us=now_us, settle_grace_s=grace_s)

        for hold in await _change(self._pool, due, expire):
            self._tell(hold)
        return len(due)

    def _tell(self, hold: Hold) -> None:
        """A lapse is a spender's death; an end without its usage is money that somebody should look for."""
        how = "released" if hold.state is HoldState.EXPIRED else "kept" if hold.pinned else "lapsed"
        self._figures.holds_expired.labels(how).inc()
        tell = self._log.error if hold.state is HoldState.EXPIRED else self._log.warning
        tell(
            "hold_expired",
            how=how,
            hold_id=str(hold.id),
            hold_kind=str(hold.kind),
            customer_id=hold.customer_id,
            request_id=str(hold.request_id or ""),
            freed_nano_usd=hold.freed_nano_usd,
            remaining_nano_usd=hold.remaining_nano_usd,
        )


def _ids(refused: Iterable[Refused]) -> Iterator[UUID]:
    for each in refused:
        with contextlib.suppress(ValueError):
            yield UUID(each.hold_id)


async def _unlisted(connection: Connection, page: Page, listed: Sequence[UUID]) -> list[tuple[UUID, str]]:
    return await hold_store.unlisted(
        connection,
        spender=page.spender,
        listed=listed,
        from_id=page.from_id,
        until_id=min(page.until_id, page.as_of),
        with_lapsed=page.spender_ended,
        limit=MAX_RELEASED,
    )


async def _change(
    pool: db.Pool, holds: Sequence[tuple[UUID, str]], change: Callable[[Books, UUID], None]
) -> list[Hold]:
    """Locks these holds and their customers' accounts and applies a change to each; returns those that changed."""

    async def work(connection: Connection) -> list[Hold]:
        books = await store.lock_books(
            connection,
            customer_ids={customer_id for _, customer_id in holds},
            hold_ids=[hold_id for hold_id, _ in holds],
        )
        pinned = [hold.id for hold in books.holds.values() if hold.pinned]
        if pinned:
            books.kept = await letter_store.kept_of_leases(connection, pinned)
        for hold_id, _ in holds:
            change(books, hold_id)
        await store.save_books(connection, books)
        return [books.holds[hold_id] for hold_id in books.changed_holds]

    return await db.in_transaction(pool, work)
