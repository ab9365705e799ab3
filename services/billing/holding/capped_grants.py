"""Granting holds that spend caps bind: each the whole request's, decided by `Books` under locks, many in a transaction.

A call is refused at once when the cap's period, or the balance, is used up by what was spent; while running requests
hold what is missing it waits for them, at most two seconds, and short credit is recalled and told apart from reserved
credit, as in `grants`. Of cap and balance the tighter one names the refusal.
"""

import asyncio
import dataclasses
import datetime
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from services.billing import store
from services.billing.batches import Batches
from services.billing.books import Books
from services.billing.figures import Figures
from services.billing.holding import cap_store, hold_store
from services.billing.holding.caps import Cap
from services.billing.holding.grants import (
    CLOSE_TIMEOUT_S,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    WAIT_FOR_RELEASES_S,
    Granted,
    balance_reserved,
)
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import Hold, HoldKind

MAX_BATCH = 64
MAX_BATCHES_AT_ONCE = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CappedAsk:
    """A hold that somebody wants, the caps that bind it, and the least that will do."""

    ask: Ask
    caps: tuple[Cap, ...]
    least_nano_usd: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why an ask was not granted, at the database's time `at`, and whether releases of running requests may help."""

    error: TollbridgeError
    may_wait: bool
    at: datetime.datetime


Outcome = Granted | Refused


class CappedGrants:
    """Grants holds with caps. `recall` is as for `Grants`."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        figures: Figures,
        lease_lives_s: float,
        recall: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._figures = figures
        self._lease_lives_s = lease_lives_s
        self._recall = recall
        self._batches: Batches[CappedAsk, Outcome] = Batches(
            run=self._run, key=lambda each: each.ask.hold_id, most=MAX_BATCH, at_once=MAX_BATCHES_AT_ONCE
        )

    async def grant(
        self, ask: Ask, *, caps: Sequence[Cap], least_nano_usd: int = 0, wait_s: float = WAIT_FOR_RELEASES_S
    ) -> Granted:
        """Grants the asked amount, or the most that fits from `least_nano_usd` on when that is not 0.

        Raises SPEND_CAP_REACHED and INSUFFICIENT_CREDITS (both with affordable_nano_usd), NOT_FOUND,
        IDEMPOTENCY_MISMATCH, CONFLICT when the hold of that id is over, UNAVAILABLE.
        """
        capped = CappedAsk(ask=ask, caps=tuple(caps), least_nano_usd=least_nano_usd or ask.amount_nano_usd)
        deadline = time.monotonic() + min(wait_s, WAIT_FOR_RELEASES_S)
        pause_s = FIRST_PAUSE_S
        short_since: datetime.datetime | None = None
        reserved: int | None = None
        while True:
            outcome = await self._batches.ask(capped)
            if isinstance(outcome, Granted):
                self._figures.grants.labels("granted").inc()
                return outcome
            if not outcome.may_wait or reserved is not None:
                raise self._refusal(capped, outcome, reserved_nano_usd=reserved or 0)
            left_s = deadline - time.monotonic()
            short_since = short_since or outcome.at
            if left_s <= 0:  # asked before the last try, as in `grants`
                reserved = await self._unanswered(ask, since=short_since)
                continue
            if outcome.error.code is Code.INSUFFICIENT_CREDITS:
                self._recall(ask.customer_id)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Waits for the batches that are under way."""
        await self._batches.close(timeout_s=CLOSE_TIMEOUT_S)

    async def _unanswered(self, ask: Ask, *, since: datetime.datetime) -> int:
        async with db.transaction(self._pool) as connection:
            return await hold_store.unanswered(connection, customer_id=ask.customer_id, since=since)

    def _refusal(self, capped: CappedAsk, refused: Refused, *, reserved_nano_usd: int) -> TollbridgeError:
        is_capped = refused.error.code is Code.SPEND_CAP_REACHED
        if refused.may_wait and not is_capped:
            affordable = int(refused.error.details["affordable_nano_usd"])
            if affordable + reserved_nano_usd >= capped.least_nano_usd:
                self._figures.grants.labels("reserved").inc()
                return balance_reserved()
        if is_capped or refused.error.code is Code.INSUFFICIENT_CREDITS:
            self._figures.grants.labels("capped" if is_capped else "insufficient").inc()
        return refused.error

    async def _run(self, asks: list[CappedAsk]) -> list[Outcome]:
        async def once(connection: Connection) -> list[Outcome]:
            return await _grant(connection, asks, lease_lives_s=self._lease_lives_s)

        self._figures.grant_batches.inc()
        try:
            return await db.in_transaction(self._pool, once)
        except store.REFUSED:
            # Another transaction granted one of these ids for another customer just then: now it is known.
            return await db.in_transaction(self._pool, once)


async def _grant(connection: Connection, asks: Sequence[CappedAsk], *, lease_lives_s: float) -> list[Outcome]:
    replaced = [each.ask.replaces for each in asks if each.ask.replaces is not None]
    books = await store.lock_books(
        connection,
        customer_ids=[each.ask.customer_id for each in asks],
        hold_ids=[each.ask.hold_id for each in asks] + replaced,
        caps=[cap for each in asks for cap in each.caps],
    )
    known, at = set(books.holds), await cap_store.now(connection)
    outcomes = [_decide(books, each, at) for each in asks]
    new = [each.ask for each in asks if each.ask.hold_id in books.holds and each.ask.hold_id not in known]
    await store.save_books(connection, books)
    if new:
        await cap_store.add_holds(
            connection,
            [books.holds[ask.hold_id] for ask in new],
            deadlines_us=[ask.deadline_us for ask in new],
            lease_lives_s=lease_lives_s,
        )
    return outcomes


def _decide(books: Books, capped: CappedAsk, at: datetime.datetime) -> Outcome:
    ask = capped.ask
    if ask.replaces is not None and _is_own(books, ask, ask.replaces):
        books.release([ask.replaces])
    try:
        hold = books.grant(_hold(ask), least_nano_usd=capped.least_nano_usd, caps=capped.caps)
    except TollbridgeError as error:
        waits = error.code in {Code.INSUFFICIENT_CREDITS, Code.SPEND_CAP_REACHED} and _later(books, capped)
        return Refused(error=error, may_wait=waits, at=at)
    available = books.accounts[ask.customer_id].available_nano_usd
    return Granted(amount_nano_usd=hold.amount_nano_usd, available_nano_usd=available)


def _is_own(books: Books, ask: Ask, hold_id: UUID) -> bool:
    hold = books.holds.get(hold_id)
    owner = (ask.customer_id, ask.spender, HoldKind.LEASE)
    return hold is not None and (hold.customer_id, hold.spender, hold.kind) == owner


def _later(books: Books, capped: CappedAsk) -> bool:
    """Whether the least would fit once every running request has ended for nothing."""
    room = books.caps.room(capped.caps)
    posted = books.accounts[capped.ask.customer_id].posted_nano_usd
    return posted >= capped.least_nano_usd and (room is None or room.later_nano_usd >= capped.least_nano_usd)


def _hold(ask: Ask) -> Hold:
    """The wish as a hold; its times are the database's."""
    return Hold(
        id=ask.hold_id,
        customer_id=ask.customer_id,
        kind=ask.kind,
        spender=ask.spender,
        amount_nano_usd=ask.amount_nano_usd,
        stated_nano_usd=ask.amount_nano_usd,
        request_id=ask.request_id,
        key_id=ask.key_id,
        granted_at_us=0,
        expires_at_us=0,
    )
