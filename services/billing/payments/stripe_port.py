"""What we need of Stripe, in our own words: `stripe_api` gives it by the official library, which is loaded only when
Stripe is configured, because it takes the better part of a second."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A Checkout session as the API has it now. Amounts in the currency's smallest unit."""

    id: str
    order: str
    url: str
    status: str
    is_paid: bool
    amount_cents: int
    currency: str
    intent_id: str | None
    expires_at_us: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """What a charge's refunds, or a dispute, amount to in all as the API has it now; `is_won` gives it back to us."""

    object_id: str
    intent_id: str | None
    amount_cents: int
    currency: str
    is_won: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """A webhook whose signature was right: which object to read again, and nothing to be believed beyond that.

    Objects of some types that are not ours have no id; theirs is empty.
    """

    id: str
    type: str
    object_id: str


class StripeApi(Protocol):
    """Stripe. Calls raise UNAVAILABLE when it can't be asked, PAYMENT_METHOD_UNAVAILABLE when it refuses our key."""

    def event(self, body: bytes, signature: str) -> StripeEvent:
        """A webhook's event. Raises INVALID_REQUEST unless it was signed with our secret in the last 300 s."""
        ...

    async def create_session(
        self, *, payment_id: UUID, customer_id: str, amount_cents: int, return_url: str, expires_at_us: int
    ) -> Session:
        """A new session for a payment; repeated, the same one."""
        ...

    async def session(self, session_id: str) -> Session | None:
        """A session by its id."""
        ...

    async def session_of_intent(self, intent_id: str) -> Session | None:
        """The session that a payment intent was made by."""
        ...

    async def refunded(self, charge_id: str) -> TakenBack | None:
        """What has been refunded of a charge."""
        ...

    async def disputed(self, dispute_id: str) -> TakenBack | None:
        """What a dispute has taken; None while it is only an inquiry."""
        ...

    async def taken_back(self, *, since_us: int) -> Sequence[TakenBack]:
        """What was refunded or disputed since then, the newest first; at most a thousand of each."""
        ...
