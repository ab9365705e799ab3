"""What we ask of a blockchain, and how a payment is told from others on it. `tron` and `local_chain` answer.

All payments go to one address, because addresses of their own would need a wallet's keys here. So each payment asks for
an amount whose last four digits, in millionths of a USDT, no other open payment to that address has: 25.50 USD asks
for 25.503147 USDT. The digits name the payment also when more or less is sent. A transfer that names none, or one that
has its money, is kept for the operator, and so is one from before the payment began: otherwise somebody could claim a
stranger's transfer by beginning a payment that fits it.

With `round_first` a payment asks for 25.50 USDT itself while it is the only one to do so. Just that sum pays it then,
and not even that while another payment over it is open, as its payer may have rounded: an operator decides.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.billing.payments.payment import MOST_NANO_USD, Payment

NANO_USD_PER_MICRO_USDT = 1000
"""A USDT is credited as a USD."""
SUFFIXES = 10_000
LEAST_MICRO_USDT = 10_000
"""Less than a cent is dust, which strangers send to advertise: it is ignored."""
MOST_MICRO_USDT = 10 * MOST_NANO_USD // NANO_USD_PER_MICRO_USDT
"""More than this is left to an operator."""
BEYOND_MICRO_USDT = 1 << 62
"""More USDT than there can be; such a number is none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A transfer that a list names, by its transaction. Nothing is believed of it, but that dust is worth no look."""

    transaction_id: str
    arrived_at_us: int
    is_dust: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OnChain:
    """One transfer to the address inside a transaction that succeeded, as the chain has it now."""

    position: int
    sender: str
    amount_micro_usdt: int
    arrived_at_us: int
    confirmations: int


class Chain(Protocol):
    """A blockchain. Calls raise UNAVAILABLE, and take a bounded time."""

    async def listed(self, address: str, *, since_us: int) -> Sequence[Listed]:
        """What brought this address USDT since then, oldest first; at most some thousand, and then the oldest."""
        ...

    async def look_up(self, address: str, transaction_ids: Sequence[str]) -> Mapping[str, Sequence[OnChain]]:
        """What these transactions bring the address, in the order asked; none for one that failed or is gone.

        A failure ends the asking: what was not asked is missing from the answer. Raises UNAVAILABLE if that is all.
        """
        ...


def suffix_of(amount_micro_usdt: int) -> int:
    """The digits that name a payment."""
    return amount_micro_usdt % SUFFIXES


def note_of(payment: Payment, found: OnChain) -> str:
    """What is odd about how a payment was paid, empty for nothing."""
    notes = []
    if found.amount_micro_usdt < payment.amount_micro_usdt:
        notes.append("underpaid")
    if found.amount_micro_usdt > payment.amount_micro_usdt:
        notes.append("overpaid")
    if found.arrived_at_us > payment.expires_at_us:
        notes.append("late")
    return ",".join(notes)
