"""The ledger's rules, pure: no clock, no database, no bus. What is written down here is decided
in `books`, which is the reference model of the property tests too.

**Signs.** Double entry: every transfer debits one account and credits another by the same positive amount, so the sum
over all accounts is 0 by construction. A customer's credits account is a *liability*, money that we owe in service:
buying credit credits it, a charge debits it, and its balance is the sum of the transfers that name it as credit, less
those that name it as debit. `revenue` is income (credited by charges). `overage_loss`, `bad_debt` and `promotions` are
expenses (debited); `clearing:…` is what payments brought us, `adjustments` what an operator gave or took. House
accounts keep no running balance: nobody waits for a lock on them, and a reader sums their transfers.

**No overspend.** What a customer may spend is posted − held, and no method takes a customer below zero: a charge takes
from its hold, then from what is available, and the rest is our own loss, booked where everyone can read it.

**Once.** A transfer is named by its cause and leg (`charge:<request>`, leg 0 from the customer, leg 1 from
`overage_loss`), and the database has a unique constraint on that name. A correction is a new transfer.
"""

import dataclasses
import enum
from uuid import UUID

import msgspec

from chassis.errors import Code, TollbridgeError
from pricing.charge import MAX_CHARGE
from services.billing.holding.holds import Hold

MAX_AMOUNT = MAX_CHARGE
"""The most that one transfer or hold may be, in nano-USD: nine million USD."""

MAX_BALANCE = 10**18
"""The most that one customer may have, in nano-USD: a billion USD, well inside a signed 64-bit integer."""


class House(enum.StrEnum):
    """Our own accounts, and what is booked there."""

    REVENUE = "revenue"  # charges, less refunds
    PROVIDER_COST = "provider_cost"  # nothing yet: what providers cost stands in the request log
    OVERAGE_LOSS = "overage_loss"  # what a request cost beyond its hold and what its customer had left
    BAD_DEBT = "bad_debt"  # what Stripe took back and the customer had spent, or had held
    PROMOTIONS = "promotions"  # welcome credit
    CLEARING_STRIPE = "clearing:stripe"  # payments by card, less what was taken back
    CLEARING_CRYPTO = "clearing:crypto"  # payments in USDT
    ADJUSTMENTS = "adjustments"  # an operator's credits and corrections


class TransferKind(enum.StrEnum):
    """Why money moved."""

    CHARGE = "charge"
    REFUND = "refund"
    ADJUSTMENT = "adjustment"
    WELCOME = "welcome"
    PAYMENT = "payment"
    REVERSAL = "reversal"


class UsageKind(enum.StrEnum):
    """With the request's id, the identity of a line of the request log: calls make refunds, events make the others."""

    CHARGE = "charge"
    VOID = "void"
    REFUND = "refund"


class Poison(Exception):
    """An event that can't be right and never will be: it goes to the dead letters, with this reason."""


def credits_account(customer_id: str) -> str:
    """The name of a customer's account in transfers."""
    return f"credits:{customer_id}"


class Account(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One customer's account. `version` counts its transfers, without a gap. Amounts in nano-USD."""

    customer_id: str
    credited_nano_usd: int = 0
    used_nano_usd: int = 0
    held_nano_usd: int = 0
    version: int = 0

    @property
    def posted_nano_usd(self) -> int:
        """The balance: includes what is held."""
        return self.credited_nano_usd - self.used_nano_usd

    @property
    def available_nano_usd(self) -> int:
        """What a new hold or charge can take."""
        return self.posted_nano_usd - self.held_nano_usd


class Transfer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A movement of money, never changed. The last four fields are set only when a customer's account takes part.

    `cap_ids` are the cap accounts that a charge counted in, and that its refund takes it out of again. The order of the
    fields is that of the columns as `store` names them: it and `seals` take them by their places.
    """

    id: UUID
    debit: str
    credit: str
    amount_nano_usd: int
    kind: TransferKind
    event_id: str
    leg: int = 0
    reverses: UUID | None = None
    request_id: UUID | None = None
    reason: str = ""
    customer_id: str | None = None
    version: int | None = None
    balance_after_nano_usd: int | None = None
    cap_ids: tuple[str, ...] = ()


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What of a usage event moves money, already checked by `charges`."""

    request_id: UUID
    kind: UsageKind
    customer_id: str
    hold_id: UUID | None
    closes_hold: bool
    charge_nano_usd: int


class Settled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a usage event: what the customer paid, and what we lost. Both 0 for a void or a duplicate."""

    duplicate: bool = False
    taken_nano_usd: int = 0
    overage_nano_usd: int = 0


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of the request log. Amounts in nano-USD; `recorded` is the event as it came, serialised.

    `ended` is None for a refund, and where the event doesn't say. The order of the fields is that of the columns
    as `store` names them.
    """

    request_id: UUID
    kind: UsageKind
    customer_id: str
    key_id: str = ""
    model: str = ""
    operation: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    charge_nano_usd: int = 0
    taken_nano_usd: int = 0
    overage_nano_usd: int = 0
    provider_cost_nano_usd: int = 0
    ended: str | None = None
    recorded: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that was set aside, and why. Fields that could not be read are empty."""

    request_id: UUID | None = None
    kind: str = ""
    customer_id: str = ""
    hold_id: UUID | None = None
    reason: str
    recorded: bytes


def insufficient(account: Account) -> TollbridgeError:
    """The refusal of a hold or correction that the customer can't afford."""
    return TollbridgeError(
        Code.INSUFFICIENT_CREDITS,
        "You do not have enough credits.",
        details={
            "affordable_nano_usd": str(account.available_nano_usd),
            "balance_nano_usd": str(account.posted_nano_usd),
        },
    )


def same_grant(known: Hold, *, customer_id: str, spender: str) -> Hold:
    """The answer to a grant that is asked again. Raises IDEMPOTENCY_MISMATCH, or CONFLICT when it is over by now."""
    if known.customer_id != customer_id or known.spender != spender:
        raise TollbridgeError(Code.IDEMPOTENCY_MISMATCH, "the hold id belongs to another hold")
    if not known.is_open:
        raise TollbridgeError(Code.CONFLICT, "the hold is over")
    return known
