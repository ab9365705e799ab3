"""Payments, pure: what one is, what amounts are possible, and which states follow each other.

A payment is *pending* until its money is seen, *confirming* while it is seen but could still go away, and *settled*
when it was credited, by exactly one transfer named `payment:<id>`. *expired* and *failed* ended without money. Late
money may still settle an expired payment; nothing unsettles one: what goes back later is a reversal, a transfer of its
own.
"""

import dataclasses
import enum
from uuid import UUID

from chassis.errors import Code, TollbridgeError
from services.billing.ledger import House

CENT_NANO_USD = 10_000_000
LEAST_NANO_USD = 50 * CENT_NANO_USD
"""Stripe takes no card payment below 0.50 USD, and one bound for both methods is easier to explain."""
MOST_NANO_USD = 100_000 * 100 * CENT_NANO_USD
MAX_OPEN = 20
"""Unpaid payments that one customer may have at once."""


class Method(enum.StrEnum):
    """How it is paid; the value is what the customer sees."""

    STRIPE = "stripe"
    CRYPTO = "crypto"

    @property
    def clearing(self) -> House:
        """The house account that stands for money at this provider."""
        return House.CLEARING_STRIPE if self is Method.STRIPE else House.CLEARING_CRYPTO


class State(enum.StrEnum):
    """Where it stands; the value is what the customer sees."""

    PENDING = "pending"
    CONFIRMING = "confirming"
    SETTLED = "settled"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def is_open(self) -> bool:
        """True while its money is expected."""
        return self in {State.PENDING, State.CONFIRMING}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One payment. Amounts in nano-USD, times in microseconds since the epoch.

    `object_id` is what it is at its provider: a Checkout session, or a transaction and its position. `event_id` is what
    settled it. `amount_micro_usdt` is what to send exactly, for crypto. `note` says what was odd.
    """

    id: UUID
    customer_id: str
    request_id: str
    method: Method
    amount_nano_usd: int
    state: State = State.PENDING
    credited_nano_usd: int = 0
    reversed_nano_usd: int = 0
    object_id: str | None = None
    event_id: str | None = None
    intent_id: str | None = None
    url: str = ""
    address: str = ""
    amount_micro_usdt: int = 0
    note: str = ""
    created_at_us: int
    expires_at_us: int
    open_until_us: int


def check_amount(amount_nano_usd: int) -> int:
    """The amount, when it may be paid in. Raises INVALID_REQUEST."""
    if not LEAST_NANO_USD <= amount_nano_usd <= MOST_NANO_USD:
        raise _refused("amount_usd must be from 0.50 to 100000.")
    if amount_nano_usd % CENT_NANO_USD:
        raise _refused("amount_usd must be a whole number of cents.")
    return amount_nano_usd


def unavailable(method: Method) -> TollbridgeError:
    """The refusal where a method is not configured."""
    return TollbridgeError(Code.PAYMENT_METHOD_UNAVAILABLE, f"Payment by {method} is not available here.")


def _refused(message: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "amount_usd"})
