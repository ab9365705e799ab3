"""The desk: begins payments, credits them, and takes back what their providers took from us.

It is told amounts by those who have just read them at the source (`checkout`, `watch`). Each of its methods is one
transaction or a part of one, and a repeated call changes nothing: a settled payment stays as it is, and a reversal is
counted by what its refund or dispute amounts to in all.
"""

import dataclasses
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.billing import store as ledger_store
from services.billing.figures import Figures
from services.billing.payments import store
from services.billing.payments.payment import MAX_OPEN, Method, Payment, State


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Money that has arrived for a payment, as its source says."""

    amount_nano_usd: int
    object_id: str
    event_id: str
    intent_id: str | None = None
    note: str = ""


class PaymentDesk:
    """What may be done with payments, whoever their provider is."""

    def __init__(self, *, pool: db.Pool, figures: Figures, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._figures = figures
        self._log = log

    async def begin(
        self, connection: Connection, new: Payment, *, lives_s: int, late_s: int = 0
    ) -> tuple[Payment, bool]:
        """A payment for this customer's request_id, and whether it is new.

        Raises NOT_FOUND without an account, IDEMPOTENCY_MISMATCH for another amount or method, RATE_LIMIT_EXCEEDED with
        too many unpaid ones.
        """
        if await ledger_store.read_account(connection, new.customer_id) is None:
            raise TollbridgeError(Code.NOT_FOUND, "no such customer account")
        is_open = await store.count_open(connection, new.customer_id)
        known = await store.of_request(connection, new.customer_id, new.request_id)
        if known is not None:
            if (known.amount_nano_usd, known.method) != (new.amount_nano_usd, new.method):
                raise TollbridgeError(Code.IDEMPOTENCY_MISMATCH, "That Idempotency-Key began another payment.")
            return known, False
        if is_open >= MAX_OPEN:
            message = f"There are {MAX_OPEN} unpaid payments already; pay one or let it lapse."
            raise TollbridgeError(Code.RATE_LIMIT_EXCEEDED, message, retry_after_s=60)
        return _there(await store.add(connection, new, lives_s=lives_s, late_s=late_s)), True

    async def find(self, payment_id: UUID, *, customer_id: str = "") -> Payment:
        """A payment. Raises NOT_FOUND, also for another customer's."""
        async with db.transaction(self._pool) as connection:
            payment = await store.read(connection, payment_id)
        if payment is None or customer_id not in {"", payment.customer_id}:
            raise TollbridgeError(Code.NOT_FOUND, "There is no such payment.")
        return payment

    async def settle(self, payment_id: UUID, arrival: Arrival) -> Payment:
        """Credits a payment, once. Raises NOT_FOUND."""

        async def work(connection: Connection) -> Payment:
            return await self.settle_in(connection, payment_id, arrival)

        return await db.in_transaction(self._pool, work)

    async def settle_in(self, connection: Connection, payment_id: UUID, arrival: Arrival) -> Payment:
        """The same as a part of a transaction."""
        payment = _there(await store.lock(connection, payment_id))
        if payment.state is State.SETTLED:
            return payment
        books = await ledger_store.lock_books(connection, customer_ids=[payment.customer_id])
        books.pay_in(
            payment.customer_id,
            arrival.amount_nano_usd,
            source=payment.method.clearing,
            event_id=f"payment:{payment.id}",
        )
        await ledger_store.save_books(connection, books)
        settled = dataclasses.replace(
            payment,
            credited_nano_usd=arrival.amount_nano_usd,
            object_id=arrival.object_id,
            event_id=arrival.event_id,
            intent_id=arrival.intent_id,
            note=arrival.note,
        )
        self._tell("settled", settled)
        return _there(await store.settle(connection, settled))

    async def move(self, payment_id: UUID, state: State, *, note: str = "") -> Payment:
        """Moves a payment that has not ended in *settled* or *failed*: from there nothing but money moves it."""

        async def work(connection: Connection) -> Payment:
            payment = _there(await store.lock(connection, payment_id))
            if payment.state in {State.SETTLED, State.FAILED} or (payment.state, payment.note) == (state, note):
                return payment
            return _there(await store.set_state(connection, payment_id, state, note=note))

        return await db.in_transaction(self._pool, work)

    async def reverse(self, payment_id: UUID, *, object_id: str, total_nano_usd: int) -> bool:
        """Takes back what this refund or dispute amounts to in all, less what it took before; never more than came in.

        The customer pays what is available, `bad_debt` the rest. Returns whether it is news, of now or the last days.
        """

        async def work(connection: Connection) -> bool:
            payment = _there(await store.lock(connection, payment_id))
            before = await store.reversed_by(connection, object_id)
            left = payment.credited_nano_usd - payment.reversed_nano_usd
            amount = min(total_nano_usd - before.amount_nano_usd, left)
            if amount <= 0:
                return before.is_recent
            total = before.amount_nano_usd + amount
            books = await ledger_store.lock_books(connection, customer_ids=[payment.customer_id])
            books.reverse_payment(
                payment.customer_id,
                amount,
                into=payment.method.clearing,
                event_id=f"reversal:{payment.id}:{object_id}:{total}",
            )
            await ledger_store.save_books(connection, books)
            after = dataclasses.replace(payment, reversed_nano_usd=payment.reversed_nano_usd + amount)
            await store.add_reversal(connection, after, object_id=object_id, total_nano_usd=total)
            self._tell("reversed", after)
            return True

        return await db.in_transaction(self._pool, work)

    def tell_oddity(self, method: Method, outcome: str, **details: str | int) -> None:
        """Money that nobody was credited for: an operator must look at it."""
        self._figures.payments.labels(str(method), outcome).inc()
        self._log.error(f"payment_{outcome}", method=str(method), **details)

    def _tell(self, outcome: str, payment: Payment) -> None:
        """A line for the operator. It may be said of a transaction that is then tried again."""
        self._figures.payments.labels(str(payment.method), outcome).inc()
        tell = self._log.warning if payment.note or payment.reversed_nano_usd else self._log.info
        tell(
            f"payment_{outcome}",
            payment_id=str(payment.id),
            customer_id=payment.customer_id,
            method=str(payment.method),
            asked_nano_usd=payment.amount_nano_usd,
            credited_nano_usd=payment.credited_nano_usd,
            reversed_nano_usd=payment.reversed_nano_usd,
            note=payment.note,
        )


def new_payment(*, customer_id: str, request_id: str, method: Method, amount_nano_usd: int) -> Payment:
    """A payment that is about to begin; its times are the database's to say."""
    return Payment(
        id=uuid7(),
        customer_id=customer_id,
        request_id=request_id,
        method=method,
        amount_nano_usd=amount_nano_usd,
        created_at_us=0,
        expires_at_us=0,
        open_until_us=0,
    )


def _there(payment: Payment | None) -> Payment:
    if payment is None:
        raise TollbridgeError(Code.NOT_FOUND, "There is no such payment.")
    return payment
