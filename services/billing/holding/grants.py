"""Granting holds: calls that wait at the same time go to the database as one statement and one commit.

A customer who can't pay is refused at once, but not while their own leases hold what is missing: running requests may
cost less than was reserved, and spenders may have some left. So every spender is asked for what it has free, and the
call waits for releases, at most two seconds. Then it is refused for want of credit, or, where a spender that may hold
the rest has not answered, because the balance is reserved. A refusal is always about money, never about load: many
calls on a small balance end as exactly as many grants as it pays for. A caller that gives up may still have been
granted; its spender doesn't list that hold, and so it is freed.
"""

import asyncio
import dataclasses
import datetime
import time
from collections.abc import Callable

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.billing.batches import Batches
from services.billing.figures import Figures
from services.billing.holding import hold_store
from services.billing.holding.hold_store import Answer, Ask, Known
from services.billing.holding.holds import HoldState

MAX_BATCH = 128
MAX_BATCHES_AT_ONCE = 2
"""While one commits, the next one fills: more would only wait for each other's account locks."""
WAIT_FOR_RELEASES_S = 2.0
CLOSE_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.25
MAX_RACES = 20
"""Grants of the same id or the last money that are lost to somebody else before we say that we are overloaded."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A grant, new or repeated. Amounts in nano-USD."""

    amount_nano_usd: int
    available_nano_usd: int


class Grants:
    """Grants holds. It owns the tasks that run batches; each ends by itself when nobody waits.

    `recall` asks all spenders for what they have free of a customer's leases; it returns at once.
    """

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
        self._batches: Batches[Ask, Answer] = Batches(
            run=self._run, key=lambda ask: ask.hold_id, most=MAX_BATCH, at_once=MAX_BATCHES_AT_ONCE
        )

    async def grant(self, ask: Ask, *, least_nano_usd: int = 0, wait_s: float = WAIT_FOR_RELEASES_S) -> Granted:
        """Grants the asked amount, or the most affordable from `least_nano_usd` on when that is not 0.

        Raises INSUFFICIENT_CREDITS (with affordable_nano_usd and balance_nano_usd), BALANCE_RESERVED, NOT_FOUND,
        IDEMPOTENCY_MISMATCH, CONFLICT when the hold of that id is over, UNAVAILABLE.
        """
        least = least_nano_usd or ask.amount_nano_usd
        deadline = time.monotonic() + min(wait_s, WAIT_FOR_RELEASES_S)
        pause_s, races = FIRST_PAUSE_S, 0
        short_since: datetime.datetime | None = None
        reserved: int | None = None
        while races < MAX_RACES:
            answer = await self._batches.ask(ask)
            granted = self._granted(ask, answer)
            if granted is not None:
                return granted
            room = answer.available_nano_usd
            if ask.spare:
                self._figures.grants.labels("none_to_spare").inc()
                raise _insufficient(answer)
            if room >= least:
                ask = dataclasses.replace(ask, amount_nano_usd=min(room, ask.amount_nano_usd), wish_nano_usd=0)
                races += 1
                continue
            if (answer.posted_nano_usd or 0) < least or reserved is not None:
                raise self._refusal(answer, least_nano_usd=least, reserved_nano_usd=reserved or 0)
            short_since = short_since or answer.at
            left_s = deadline - time.monotonic()
            if left_s <= 0:  # asked before the last try: what had been given back by then is there for it
                reserved = await self._unanswered(ask, since=short_since)
                continue
            self._recall(ask.customer_id)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        raise TollbridgeError(Code.UNAVAILABLE, "too many calls for the same credit", retry_after_s=1)

    async def close(self) -> None:
        """Waits for the batches that are under way."""
        await self._batches.close(timeout_s=CLOSE_TIMEOUT_S)

    async def _unanswered(self, ask: Ask, *, since: datetime.datetime) -> int:
        async with db.transaction(self._pool) as connection:
            return await hold_store.unanswered(connection, customer_id=ask.customer_id, since=since)

    def _refusal(self, answer: Answer, *, least_nano_usd: int, reserved_nano_usd: int) -> TollbridgeError:
        """Whether it is money that is wanting, or a word from a spender that may have some left."""
        if answer.available_nano_usd + reserved_nano_usd >= least_nano_usd:
            self._figures.grants.labels("reserved").inc()
            return balance_reserved()
        self._figures.grants.labels("insufficient").inc()
        return _insufficient(answer)

    def _granted(self, ask: Ask, answer: Answer) -> Granted | None:
        if answer.granted_nano_usd is not None:
            self._figures.grants.labels("granted").inc()
            return Granted(amount_nano_usd=answer.granted_nano_usd, available_nano_usd=answer.available_nano_usd)
        if answer.known is not None:
            self._figures.grants.labels("repeated").inc()
            amount = _same(ask, answer.known)
            return Granted(amount_nano_usd=amount, available_nano_usd=answer.available_nano_usd)
        if answer.posted_nano_usd is None:
            raise TollbridgeError(Code.NOT_FOUND, "no such customer account")
        return None

    async def _run(self, asks: list[Ask]) -> list[Answer]:
        async def once(connection: db.Connection) -> list[Answer]:
            async with connection.pipeline():  # begin, statement and commit leave together: one round trip
                cursor = await hold_store.send_grant(connection, asks, lease_lives_s=self._lease_lives_s)
                await connection.commit()
            return await hold_store.read_answers(cursor, asks)

        self._figures.grant_batches.inc()
        return await db.in_transaction(self._pool, once)


def _same(ask: Ask, known: Known) -> int:
    if known.customer_id != ask.customer_id or known.spender != ask.spender:
        raise TollbridgeError(Code.IDEMPOTENCY_MISMATCH, "the hold id belongs to another hold")
    if known.state is not HoldState.OPEN:
        raise TollbridgeError(Code.CONFLICT, "the hold is over")
    return known.amount_nano_usd


def balance_reserved() -> TollbridgeError:
    """The refusal while a spender that has not answered may hold what is missing."""
    message = "The credit is reserved by requests elsewhere. Please try again."
    return TollbridgeError(Code.BALANCE_RESERVED, message, retry_after_s=1)


def _insufficient(answer: Answer) -> TollbridgeError:
    return TollbridgeError(
        Code.INSUFFICIENT_CREDITS,
        "You do not have enough credits.",
        details={
            "affordable_nano_usd": str(answer.available_nano_usd),
            "balance_nano_usd": str(answer.posted_nano_usd or 0),
        },
    )
