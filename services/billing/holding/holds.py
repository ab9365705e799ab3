"""Holds: money set aside for somebody who may spend it. Pure; time is passed in as microseconds since the epoch.

A hold of `amount` splits at any moment into what was captured by charges, what was freed back to the customer, and the
rest, which is still held: captured + freed + remaining = amount. It resolves once, to settled (its spender is done) or
expired (its time is up), and then nothing remains.

A lease that its spender no longer states lapses first: only what the spender had free at its last statement goes back,
since requests that it started may still send their usage. The rest waits for them, or for the end of the grace.
"""

import enum
from uuid import UUID

import msgspec
from msgspec.structs import replace


class HoldKind(enum.StrEnum):
    """What the hold is for."""

    LEASE = "lease"  # a spender draws requests from it and states it every few seconds
    TASK = "task"  # one task, until its deadline
    EXACT = "exact"  # one request of another team, until its deadline


class HoldState(enum.StrEnum):
    """Open until it resolves; it resolves once."""

    OPEN = "open"
    SETTLED = "settled"
    EXPIRED = "expired"


_OPEN = HoldState.OPEN


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of billing.holds. Amounts in nano-USD.

    `stated_nano_usd` is open + spent of the spender's last statement; before the first it is the whole amount, so that
    a spender that dies at once is not thought to have spent nothing. A pinned hold belongs to a dead letter and is
    released by nobody but the operator who resolves that; of a lease for many requests only the letter's charge is
    kept once its spender is done with it. `cap_ids` are the cap accounts that it counts in.
    """

    id: UUID
    customer_id: str
    kind: HoldKind
    spender: str
    amount_nano_usd: int
    captured_nano_usd: int = 0
    freed_nano_usd: int = 0
    stated_nano_usd: int
    state: HoldState = HoldState.OPEN
    lapsed: bool = False
    pinned: bool = False
    request_id: UUID | None = None
    key_id: str = ""
    cap_ids: tuple[str, ...] = ()
    granted_at_us: int
    expires_at_us: int

    @property
    def remaining_nano_usd(self) -> int:
        """What is still held."""
        return self.amount_nano_usd - self.captured_nano_usd - self.freed_nano_usd

    @property
    def is_open(self) -> bool:
        """Whether anything can still happen to it."""
        return self.state is _OPEN

    def capture(self, amount_nano_usd: int) -> "Hold":
        """Takes a charge out of what remains; the caller bounds it by `remaining_nano_usd`."""
        captured = self.captured_nano_usd + amount_nano_usd
        if amount_nano_usd < 0 or captured + self.freed_nano_usd > self.amount_nano_usd:
            raise ValueError(f"{amount_nano_usd} can't be captured from {self.remaining_nano_usd}")
        return replace(self, captured_nano_usd=captured)

    def free(self, amount_nano_usd: int) -> "Hold":
        """Gives a part back while the hold stays open; never more than remains."""
        part = min(max(amount_nano_usd, 0), self.remaining_nano_usd)
        return replace(self, freed_nano_usd=self.freed_nano_usd + part)

    def resolve(self, state: HoldState) -> "Hold":
        """Ends the hold and gives back all that remains."""
        return replace(self.free(self.remaining_nano_usd), state=state)

    def keep(self, amount_nano_usd: int) -> "Hold":
        """Gives back all but this for good: it is no longer its spender's, and stays open for its dead letters."""
        return replace(self.free(self.remaining_nano_usd - amount_nano_usd), lapsed=True)

    def expire(self, *, now_us: int, settle_grace_s: int, kept_nano_usd: int = 0) -> "Hold":
        """What the end of its time does: a stated lease lapses, anything else is released.

        A pinned one keeps `kept_nano_usd` besides, and its time begins anew until its letters are resolved.
        """
        later_us = now_us + settle_grace_s * 1_000_000
        if self.kind is not HoldKind.LEASE or self.lapsed:
            if self.pinned:
                return replace(self.keep(kept_nano_usd), expires_at_us=later_us)
            return self.resolve(HoldState.EXPIRED)
        lapsed = self.free(self.remaining_nano_usd - self.stated_nano_usd - kept_nano_usd)
        if lapsed.remaining_nano_usd == 0 and not lapsed.pinned:
            return lapsed.resolve(HoldState.EXPIRED)
        return replace(lapsed, lapsed=True, expires_at_us=later_us)
