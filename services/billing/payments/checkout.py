"""Payments by card: Stripe Checkout, its webhooks, and the rounds that find what no webhook told.

A webhook only names an object. The session, charge or dispute is read again from the API, and what it says there
decides, so it makes no difference in which order, how often or how many at once webhooks come, or whether one is lost.
A session settles a payment only if it is that payment's, in USD, paid, and over exactly what was asked for; one over
another amount is left for the operator with the note `amount_mismatch`. A session that is complete but not paid (a bank
debit, say) is *confirming*.

A refund or dispute takes what the customer has available and the rest from `bad_debt`, and auth is asked to suspend
them, before Stripe is told that its webhook was received. Every half hour refunds and disputes are listed too, so that
all this happens also where no webhook comes. A suspension that failed is made up for when the same is told or listed
again, within four days; what is told later of the same dispute suspends nobody again, nor does a repetition whom an
operator has reinstated. A dispute that is won is the operator's to correct, as is the suspension: the log and a metric
tell it once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from services.billing import store as ledger_store
from services.billing.config import BillingConfig, StripeSection
from services.billing.payments import store
from services.billing.payments.desk import Arrival, PaymentDesk, new_payment
from services.billing.payments.payment import CENT_NANO_USD, Method, Payment, State, check_amount, unavailable
from services.billing.payments.stripe_port import Session, StripeApi, TakenBack
from services.billing.payments.suspension import Suspend

LIVES_S = 3600
"""How long a session can be paid; Stripe takes 30 minutes to 24 hours."""
MAX_ROUND = 50
ROUND_PAUSE_S = 30.0
LOOK_AGAIN_S = 6 * 3600
"""A bank debit takes days."""
RETRY_S = 300
"""When a look failed."""
REVERSALS_PAUSE_S = 1800.0
"""Between two lists of what was taken back."""
REVERSALS_BACK_S = 120 * 86_400
"""How far those reach: most disputes are decided by then."""

OpenStripe = Callable[[StripeSection], Awaitable[StripeApi]]


class StripeAccess:
    """Stripe with the configuration that holds now: made when it is first needed, and anew when the file changes."""

    def __init__(self, *, config: Callable[[], BillingConfig], open_stripe: OpenStripe) -> None:
        self._config = config
        self._open_stripe = open_stripe
        self._opened: tuple[StripeSection, StripeApi] | None = None
        self._opening = asyncio.Lock()

    @property
    def top_up_url(self) -> str:
        """The operator's page for top-ups, empty without one."""
        return self._config().top_up_url

    @property
    def is_configured(self) -> bool:
        """Whether the config file has it."""
        return self._config().stripe is not None

    async def get(self) -> StripeApi:
        """Raises PAYMENT_METHOD_UNAVAILABLE where it is not configured."""
        async with self._opening:
            section = self._config().stripe
            if section is None:
                raise unavailable(Method.STRIPE)
            if self._opened is None or self._opened[0] != section:
                self._opened = (section, await self._open_stripe(section))
            return self._opened[1]


class Checkout:
    """Payments by card."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        desk: PaymentDesk,
        access: StripeAccess,
        suspend: Suspend,
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._desk = desk
        self._access = access
        self._suspend = suspend
        self._log = log
        self._reversals_due_s = 0.0

    async def create(self, *, customer_id: str, amount_nano_usd: int, request_id: str, return_url: str) -> Payment:
        """Begins a payment and its session. The same request_id is the same payment, also after a failure."""
        stripe = await self._access.get()
        draft = new_payment(
            customer_id=customer_id,
            request_id=request_id,
            method=Method.STRIPE,
            amount_nano_usd=check_amount(amount_nano_usd),
        )

        async def begin(connection: Connection) -> Payment:
            begun, _ = await self._desk.begin(connection, draft, lives_s=LIVES_S)
            return begun

        payment = await db.in_transaction(self._pool, begin)
        if payment.url:
            return payment
        if not payment.state.is_open:
            raise TollbridgeError(Code.CONFLICT, "That payment has ended; begin another one.")
        session = await self._session_for(stripe, payment, return_url=self._access.top_up_url or return_url)
        async with db.transaction(self._pool) as connection:
            updated = await store.set_session(
                connection, payment.id, session_id=session.id, url=session.url, expires_at_us=session.expires_at_us
            )
        return updated or await self._desk.find(payment.id)

    async def _session_for(self, stripe: StripeApi, payment: Payment, *, return_url: str) -> Session:
        """The payment's session; one that Stripe refuses to make is a payment that failed."""
        try:
            return await stripe.create_session(
                payment_id=payment.id,
                customer_id=payment.customer_id,
                amount_cents=payment.amount_nano_usd // CENT_NANO_USD,
                return_url=return_url,
                expires_at_us=payment.expires_at_us,
            )
        except TollbridgeError as error:
            # the kind of error only: Stripe's own words may hold a part of the key
            self._log.error("stripe_session_not_made", reason=type(error.__cause__).__name__, code=str(error.code))
            if error.code is Code.PROVIDER_REJECTED:
                await self._desk.move(payment.id, State.FAILED)
            raise

    async def receive(self, body: bytes, signature: str) -> None:
        """Takes a webhook. Raises INVALID_REQUEST for one that is not Stripe's, UNAVAILABLE to have it sent again."""
        stripe = await self._access.get()
        event = stripe.event(body, signature)
        if event.type.startswith("checkout.session."):
            session = await stripe.session(event.object_id)
            if session is not None:
                has_failed = event.type == "checkout.session.async_payment_failed"
                await self._follow(session, event_id=event.id, has_failed=has_failed)
        elif event.type == "charge.refunded":
            await self._take_back(stripe, await stripe.refunded(event.object_id), event_id=event.id)
        elif event.type.startswith("charge.dispute."):
            await self._take_back(stripe, await stripe.disputed(event.object_id), event_id=event.id)

    async def run(self) -> None:
        """Looks after payments of which nothing was heard, until cancelled. Every replica may: settling is once."""
        while True:
            await asyncio.sleep(ROUND_PAUSE_S)
            if not self._access.is_configured:
                continue
            try:
                await self.look()
            except (TollbridgeError, ledger_store.DatabaseError) as error:
                self._log.warning("stripe_round_failed", reason=str(error))

    async def look(self) -> None:
        """Reads again what no webhook may have told."""
        stripe = await self._access.get()
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._reversals_due_s:
            self._reversals_due_s = now_s + REVERSALS_PAUSE_S
            await self._look_for_reversals(stripe)
        await self._look_for_payments(stripe)

    async def _look_for_reversals(self, stripe: StripeApi) -> None:
        """Applies what was refunded or disputed lately. That of payments which are not settled here waits for them."""
        try:
            listed = await stripe.taken_back(since_us=time.time_ns() // 1000 - REVERSALS_BACK_S * 1_000_000)
        except TollbridgeError as error:
            # such as a restricted key that may not list them: payments are looked after all the same
            self._log.warning("stripe_reversals_not_read", reason=error.message)
            return
        for taken in listed:
            payment = await self._of_intent(taken.intent_id) if taken.intent_id is not None else None
            try:
                if payment is not None:
                    await self._reverse(payment, taken)
            except ledger_store.REFUSED as error:
                self._log.error("reversal_refused", object_id=taken.object_id, reason=str(error))
            except TollbridgeError as error:
                # auth can't be asked, say: the others' money comes back all the same, and the next list makes up for it
                self._log.error("reversal_not_done", object_id=taken.object_id, reason=error.message)

    async def _look_for_payments(self, stripe: StripeApi) -> None:
        """Reads the sessions again whose time is over; a payment that never got a session expires."""
        async with db.transaction(self._pool) as connection:
            payments = await store.due(connection, Method.STRIPE, limit=MAX_ROUND)
            for payment in payments:
                await store.look_again(connection, payment.id, in_s=RETRY_S)
        for payment in payments:
            try:
                await self._look_at(stripe, payment)
            except (TollbridgeError, *ledger_store.REFUSED) as error:
                if db.is_unavailable(error):
                    raise
                self._log.error("payment_refused", payment_id=str(payment.id), reason=str(error))

    async def _look_at(self, stripe: StripeApi, payment: Payment) -> None:
        session = await stripe.session(payment.object_id) if payment.object_id else None
        if session is None:
            await self._desk.move(payment.id, State.EXPIRED)
            return
        await self._follow(session, event_id=f"look:{session.id}")
        async with db.transaction(self._pool) as connection:
            await store.look_again(connection, payment.id, in_s=LOOK_AGAIN_S)

    async def _follow(self, session: Session, *, event_id: str, has_failed: bool = False) -> None:
        """Brings the payment to where its session is."""
        payment = await self._payment_of(session)
        if payment is None:
            self._log.info("stripe_session_is_not_ours", session_id=session.id)
            return
        if session.is_paid:
            await self._settle(payment, session, event_id=event_id)
        elif session.status == "expired":
            await self._desk.move(payment.id, State.EXPIRED)
        elif has_failed:
            await self._desk.move(payment.id, State.FAILED)
        elif session.status == "complete":
            await self._desk.move(payment.id, State.CONFIRMING)

    async def _settle(self, payment: Payment, session: Session, *, event_id: str) -> None:
        amount = session.amount_cents * CENT_NANO_USD
        if session.currency != "usd" or amount != payment.amount_nano_usd:
            self._desk.tell_oddity(
                Method.STRIPE,
                "mismatched",
                payment_id=str(payment.id),
                session_id=session.id,
                asked_nano_usd=payment.amount_nano_usd,
                paid_cents=session.amount_cents,
                currency=session.currency,
            )
            await self._desk.move(payment.id, State.FAILED, note="amount_mismatch")
            return
        arrival = Arrival(amount_nano_usd=amount, object_id=session.id, event_id=event_id, intent_id=session.intent_id)
        await self._desk.settle(payment.id, arrival)

    async def _take_back(self, stripe: StripeApi, taken: TakenBack | None, *, event_id: str) -> None:
        """What a refund or dispute takes. Its payment may not be settled yet, when webhooks come in another order."""
        if taken is None or taken.intent_id is None:
            return
        payment = await self._of_intent(taken.intent_id)
        if payment is None:
            session = await stripe.session_of_intent(taken.intent_id)
            if session is None:
                return
            await self._follow(session, event_id=f"before:{event_id}")
            payment = await self._of_intent(taken.intent_id)
        if payment is not None:
            await self._reverse(payment, taken)

    async def _reverse(self, payment: Payment, taken: TakenBack) -> None:
        if taken.is_won:
            await self._tell_won(taken)
            return
        if taken.currency != "usd":
            self._desk.tell_oddity(
                Method.STRIPE, "mismatched", payment_id=str(payment.id), reversed_currency=taken.currency
            )
            return
        total = taken.amount_cents * CENT_NANO_USD
        if total > 0 and await self._desk.reverse(payment.id, object_id=taken.object_id, total_nano_usd=total):
            await self._suspend(payment.customer_id, f"reversal:{taken.object_id}:{taken.amount_cents}")

    async def _tell_won(self, dispute: TakenBack) -> None:
        async with db.transaction(self._pool) as connection:
            lost = await store.note_won(connection, dispute.object_id)
        if lost is not None:
            self._desk.tell_oddity(
                Method.STRIPE,
                "dispute_won",
                payment_id=str(lost.payment_id),
                customer_id=lost.customer_id,
                dispute_id=dispute.object_id,
                taken_nano_usd=lost.amount_nano_usd,
            )

    async def _of_intent(self, intent_id: str) -> Payment | None:
        async with db.transaction(self._pool) as connection:
            return await store.of_intent(connection, intent_id)

    async def _payment_of(self, session: Session) -> Payment | None:
        """The payment that a session is the order of, if it is one of ours and of no other session."""
        try:
            payment = await self._desk.find(UUID(session.order))
        except ValueError:
            return None
        except TollbridgeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None
        if payment.method is not Method.STRIPE or payment.object_id not in {None, session.id}:
            return None
        return payment
