"""Applying usage events: many in one transaction, each at most once, a poison one aside and alone.

One transaction locks the accounts and holds of all its events, lets `Books` decide them in order, and writes the result
set-wise. Should the database refuse that (a constraint that only one event violates), the same events are applied one
by one, each under its savepoint, so that only the culprit goes to the dead letters; the locks of all are taken first
then too, in the same order, because two batches that lock as they go would wait for each other. Trouble with the
database itself is nobody's fault and is raised as UNAVAILABLE: nothing was applied, and the events come again.
"""

import dataclasses
import enum
import time
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import TollbridgeError
from chassis.telemetry import Tracer
from services.billing import charges, letter_store, store
from services.billing.books import Books
from services.billing.charges import Checked
from services.billing.figures import Figures
from services.billing.ledger import DeadLetter, Poison, Usage, UsageKind, UsageRow
from services.billing.prices import PriceBook
from services.billing.written import Memory, Written, as_queued
from tollbridge.usage.v1 import usage_pb2

MAX_EVENTS = 500
"""Events in one transaction."""


class Fate(enum.Enum):
    """What became of an event."""

    WAITING = "waiting"  # not applied: its price can't be had now
    COMMITTED = "committed"
    DEAD_LETTERED = "dead_lettered"


@dataclasses.dataclass(slots=True)
class _Work:
    """One event on its way: exactly one of `checked` and `letter` is set once it has been looked at."""

    event: usage_pb2.UsageRecorded
    checked: Checked | None = None
    letter: DeadLetter | None = None
    fate: Fate = Fate.WAITING
    repeats: bool = False  # its request has an event of its kind

    def condemn(self, reason: str) -> None:
        self.checked = None
        self.letter = charges.dead_letter(self.event, reason)


class Settlement:
    """Applies usage events to the ledger. Safe to use from many tasks and replicas at once."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        prices: PriceBook,
        tracer: Tracer,
        figures: Figures,
        log: FilteringBoundLogger,
        kept_days: Callable[[], int],
        memories: Sequence[Memory] = (),
    ) -> None:
        self._pool = pool
        self._prices = prices
        self._tracer = tracer
        self._figures = figures
        self._log = log
        self._kept_days = kept_days
        self._memories = memories

    async def apply(
        self, events: Sequence[usage_pb2.UsageRecorded], *, batches: Mapping[UUID, range] | None = None
    ) -> list[Fate]:
        """Applies at most MAX_EVENTS events in one transaction. Raises UNAVAILABLE, and then none is applied.

        `batches` are the places of those that came whole: one whose events are all applied is noted with them.
        """
        if len(events) > MAX_EVENTS:
            raise ValueError(f"at most {MAX_EVENTS} events in a transaction")
        works = [_Work(event) for event in events]
        await self._check(works)
        ready = [work for work in works if work.checked or work.letter]
        if ready:
            await self._commit(ready, {id_: [works[n] for n in places] for id_, places in (batches or {}).items()})
        committed, dead_lettered = Fate.COMMITTED, Fate.DEAD_LETTERED
        for work in ready:
            work.fate = dead_lettered if work.letter else committed
        charged = [work.checked.charge_nano_usd for work in ready if work.checked and not work.repeats]
        self._figures.events_applied.inc(sum(work.letter is None for work in ready))
        self._figures.charged.inc(sum(charged))
        self._tell(ready)
        await self._tell_of_second_charges(ready)
        return [work.fate for work in works]

    async def set_aside(self, payload: bytes, reason: str) -> None:
        """A message that is no batch of events at all goes to the dead letters whole."""
        self._log.error("dead_letter", reason=reason)
        self._figures.dead_letters.inc()
        async with db.transaction(self._pool) as connection:
            await letter_store.add(connection, DeadLetter(reason=reason, recorded=payload))

    async def _check(self, works: Sequence[_Work]) -> None:
        wanted: list[tuple[_Work, str]] = []
        for work in works:
            try:
                wanted.append((work, charges.wanted_price(work.event)))
            except Poison as error:
                work.condemn(str(error))
        prices = await self._prices.find({version for _, version in wanted if version})
        within = charges.window(now_ms=time.time_ns() // 1_000_000, kept_days=self._kept_days())
        for work, version in wanted:
            if version and version not in prices:
                continue  # stays WAITING
            try:
                work.checked = charges.check(work.event, prices.get(version), within=within)
            except Poison as error:
                work.condemn(str(error))

    async def _commit(self, works: Sequence[_Work], batches: Mapping[UUID, Sequence[_Work]]) -> None:
        async def together(connection: Connection) -> Written:
            books = await _write(connection, works, batches)
            await _set_aside(connection, works)
            return Written(books.now_us, as_queued(books.transfers))

        async def one_by_one(connection: Connection) -> None:
            await _lock(connection, works)
            for work in works:
                await _write_alone(connection, work)
            await _set_aside(connection, works)

        try:
            written = await db.in_transaction(self._pool, together)
        except store.REFUSED as error:
            self._log.warning("batch_refused", reason=str(error), events=len(works))
            await db.in_transaction(self._pool, one_by_one)
            return
        if written.transfers:
            for memory in self._memories:
                memory.add(written)

    async def _tell_of_second_charges(self, works: Sequence[_Work]) -> None:
        """A charge of a request that another run of it was charged for: one runner was only thought dead.

        The customer pays for the first that came; what the second cost its provider is the house's loss.
        """
        repeated = {
            work.checked.request_id: work.event
            for work in works
            if work.repeats and work.checked and work.checked.kind is UsageKind.CHARGE
        }
        if not repeated:
            return
        try:
            async with db.transaction(self._pool) as connection:
                charged = await store.charges_of(connection, list(repeated))
        except TollbridgeError as error:  # all is committed: that must not look as if it were not
            self._log.warning("second_charges_not_looked_for", code=error.code.value)
            return
        for request_id, recorded in charged:
            second, first = repeated[request_id], usage_pb2.UsageRecorded.FromString(recorded)
            if second.event_id == first.event_id:
                continue
            self._figures.second_charges.inc()
            self._log.error(
                "second_charge",
                request_id=second.request_id,
                charge_nano_usd=second.charge_nano_usd,
                provider_cost_nano_usd=second.provider_cost_nano_usd,
            )

    def _tell(self, works: Sequence[_Work]) -> None:
        for work in works:
            if work.letter:
                self._figures.dead_letters.inc()
                self._log.error("dead_letter", request_id=work.event.request_id, reason=work.letter.reason)
        if not self._tracer.enabled:
            return
        for event in [work.event for work in works if not work.letter and work.event.traceparent]:
            with self._tracer.span(
                "billing.apply_usage", parent=event.traceparent, kind="consumer", request_id=event.request_id
            ):
                pass  # the work was shared by a batch: the span marks when this event's part was committed


async def _lock(connection: Connection, works: Sequence[_Work]) -> Books:
    """Locks whatever these events may touch, the holds of dead letters too."""
    found: list[Usage | DeadLetter] = [work.checked for work in works if work.checked]
    customer_ids = {each.customer_id for each in found}
    found += [work.letter for work in works if work.letter]
    return await store.lock_books(
        connection,
        customer_ids=customer_ids,
        hold_ids={each.hold_id for each in found if each.hold_id},
        request_ids=[each.request_id for each in found if each.request_id],
    )


async def _write(connection: Connection, works: Sequence[_Work], batches: Mapping[UUID, Sequence[_Work]]) -> Books:
    books = await _lock(connection, works)
    pinned = [hold.id for hold in books.holds.values() if hold.pinned]
    if pinned:
        books.kept_for(await letter_store.open_of_holds(connection, pinned))
    rows: list[UsageRow] = []
    for work in works:
        _decide(books, work, rows)
    whole = [id_ for id_, theirs in batches.items() if all(work.checked for work in theirs)]
    await store.save_books(connection, books, usage=rows, batches=whole)
    if books.superseded:
        charged = [row.request_id for row in rows if row.kind is UsageKind.CHARGE]
        await letter_store.supersede(connection, applied=books.superseded, charged=charged)
    return books


def _decide(books: Books, work: _Work, rows: list[UsageRow]) -> None:
    checked = work.checked
    if checked is None:
        return
    try:
        settled = books.settle(checked)
    except Poison as error:
        work.condemn(str(error))
        return
    work.repeats = settled.duplicate
    if not settled.duplicate:
        rows.append(checked.line(settled))


async def _set_aside(connection: Connection, works: Sequence[_Work]) -> None:
    """Keeps the letters, in an order of their own: two batches may bring the same bytes.

    Of a request that is charged, by whichever event of it, no hold is kept: there is nothing left to take from it.
    """
    letters = [work.letter for work in works if work.letter]
    if not letters:
        return
    books = await _lock(connection, works)
    for letter in sorted(letters, key=letter_store.digest):
        is_open = await letter_store.add(connection, letter)
        hold_id: UUID | None = letter.hold_id
        if (letter.request_id, UsageKind.CHARGE) in books.applied:
            continue
        if is_open and hold_id in books.holds and books.holds[hold_id].customer_id == letter.customer_id:
            books.pin(hold_id, letter.request_id)
    await store.save_books(connection, books)


async def _write_alone(connection: Connection, work: _Work) -> None:
    try:
        async with connection.transaction():
            await _write(connection, [work], {})
    except store.REFUSED as error:
        work.condemn(f"the database refuses it: {type(error).__name__}")
