"""One customer's leases at this spender, and what its requests draw from them. Pure: seconds are passed in.

A lease's amount splits at any moment into what was returned, what running requests have drawn (open), what finished
ones spent and billing has not confirmed (spent), what it has confirmed (captured), and the rest, which is free. Only a
charge above its draw can make these more than the amount: then nothing is free. A lease for one request is all drawn
from the beginning; one that is shared is drawn from while it is valid, and retired when it shall come to its end.
"""

import dataclasses
from collections.abc import Iterator

IDLE_S = 5.0
"""Without a draw for so long, a customer's shared leases go back."""
QUIET_S = 2.0
"""After credit was short, how long only what is needed is asked for."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """One lease in a statement, in nano-USD: drawn by running requests, spent by finished ones, free, given back."""

    hold_id: str
    open_nano_usd: int
    spent_nano_usd: int
    free_nano_usd: int = 0
    returned_nano_usd: int = 0


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """One open hold of billing's, as its spender sees it. Amounts in nano-USD.

    `asked_beyond`: while billing is asked for it, what it may grant above what is open. `set_aside`: of a charge of it
    billing made a dead letter, so it does not end there when its spender is done with it.
    """

    hold_id: str
    customer_id: str
    amount_nano_usd: int
    open_nano_usd: int = 0
    spent_nano_usd: int = 0
    captured_nano_usd: int = 0
    returned_nano_usd: int = 0
    asked_beyond_nano_usd: int = 0
    shared: bool = False
    retired: bool = False
    set_aside: bool = False
    ttl_s: float = 0.0
    valid_until_s: float = 0.0

    @property
    def free_nano_usd(self) -> int:
        """What more could be drawn."""
        if not self.shared:
            return self.asked_beyond_nano_usd
        used = self.returned_nano_usd + self.open_nano_usd + self.spent_nano_usd + self.captured_nano_usd
        return self.amount_nano_usd - used if used < self.amount_nano_usd else 0

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is open or unconfirmed: also where that was counted wrong, so that it has an end."""
        return self.open_nano_usd <= 0 and self.spent_nano_usd <= 0

    @property
    def state(self) -> LeaseState:
        """What is stated of it now."""
        return LeaseState(
            hold_id=self.hold_id,
            open_nano_usd=self.open_nano_usd,
            spent_nano_usd=self.spent_nano_usd,
            free_nano_usd=self.free_nano_usd,
            returned_nano_usd=self.returned_nano_usd,
        )

    def serves(self, need_nano_usd: int, now_s: float) -> bool:
        """Whether so much can be drawn now."""
        return not self.retired and self.valid_until_s > now_s and self.free_nano_usd >= need_nano_usd

    def may_serve(self, need_nano_usd: int) -> bool:
        """Whether it can cover so much, now or once its running requests have ended."""
        return self.free_nano_usd + self.open_nano_usd >= need_nano_usd

    def renew(self, asked_at_s: float) -> None:
        """Billing was heard to keep it; it counts its time from no earlier than when it was asked."""
        self.valid_until_s = max(self.valid_until_s, asked_at_s + self.ttl_s)

    def draw(self, amount_nano_usd: int) -> None:
        """Sets a part aside for a request."""
        self.open_nano_usd += amount_nano_usd

    def settle(self, drawn_nano_usd: int, *, spent_nano_usd: int) -> None:
        """A request ended: its draw is over, and its charge is spent, also where it is more than the draw."""
        self.open_nano_usd -= drawn_nano_usd
        self.spent_nano_usd += spent_nano_usd

    def confirm(self, charge_nano_usd: int) -> None:
        """Billing has a request's event: the charge is captured, or set aside there."""
        self.spent_nano_usd -= charge_nano_usd
        self.captured_nano_usd += charge_nano_usd

    def give_back(self) -> bool:
        """Returns all that is free; whether that was anything. It is never drawn again."""
        if not self.shared:
            return False
        free = self.free_nano_usd
        self.returned_nano_usd += free
        return free > 0


class Demand:
    """What was asked for in this second and the last one, in nano-USD."""

    __slots__ = ("_before", "_now", "_second")

    def __init__(self) -> None:
        self._second, self._now, self._before = 0, 0, 0

    def add(self, amount_nano_usd: int, *, now_s: float) -> int:
        """Counts one draw; the sum of both seconds before it."""
        before = self.recent(now_s)
        self._now += amount_nano_usd
        return before

    def recent(self, now_s: float) -> int:
        """The sum of both seconds."""
        second = int(now_s)
        if second != self._second:
            self._move(second)
        return self._now + self._before

    def _move(self, second: int) -> None:
        self._before = self._now if second == self._second + 1 else 0
        self._second, self._now = second, 0


class Wallet:
    """All leases of one customer. One that is shared is drawn from until it can't serve, then the oldest that can."""

    __slots__ = (
        "_current",
        "_demand",
        "_last_draw_s",
        "_last_grant",
        "_last_need",
        "_leases",
        "_quiet_until_s",
        "_shared",
    )

    def __init__(self) -> None:
        self._demand = Demand()
        self._leases: dict[str, Lease] = {}
        self._shared: dict[str, Lease] = {}
        self._current: Lease | None = None  # what was drawn from last, so that a draw need not look at all of them
        self._quiet_until_s = 0.0
        self._last_draw_s = 0.0
        self._last_need = 0
        self._last_grant = 0

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    @property
    def has_shared(self) -> bool:
        """Whether there is a lease for many requests."""
        return bool(self._shared)

    def add(self, lease: Lease) -> None:
        """A lease that billing is asked for, or that it has granted for many requests."""
        self._leases[lease.hold_id] = lease
        if lease.shared:
            self._shared[lease.hold_id] = lease
            self._last_grant = lease.amount_nano_usd
            self.retire_drained()

    def remove(self, lease: Lease) -> None:
        """It is over, or never came to be."""
        self._leases.pop(lease.hold_id, None)
        self._shared.pop(lease.hold_id, None)
        if self._current is lease:
            self._current = None

    def need(self, amount_nano_usd: int, *, now_s: float) -> bool:
        """A request needs so much; whether another did a moment ago, so that a lease for more than one makes sense."""
        self._last_draw_s, self._last_need = now_s, amount_nano_usd
        return self._demand.add(amount_nano_usd, now_s=now_s) > 0

    def draw(self, amount_nano_usd: int, *, now_s: float) -> Lease | None:
        """Draws from a shared lease that has so much free; None when none has."""
        lease = self._current
        if lease is None or not lease.serves(amount_nano_usd, now_s):
            serving = (each for each in self._shared.values() if each.serves(amount_nano_usd, now_s))
            lease = self._current = next(serving, None)
        if lease is not None:
            lease.draw(amount_nano_usd)
        return lease

    def wish(self, need_nano_usd: int, *, now_s: float) -> int:
        """How much to wish for when so much is needed: what two seconds need; 0 while credit is short."""
        return 0 if self.is_quiet(now_s) else max(need_nano_usd, self._demand.recent(now_s))

    def is_low(self, now_s: float) -> bool:
        """Whether more should be asked for before it is needed."""
        current = self._current
        if current is not None and current.serves(self._last_grant // 2, now_s):
            return False  # half a grant is always enough, so most draws need to look no further
        if self.is_quiet(now_s) or not self._shared:
            return False
        enough = min(self._demand.recent(now_s), self._last_grant) // 2
        for lease in reversed(self._shared.values()):  # the youngest has the most
            if enough <= 0:
                return False
            if not lease.retired and lease.valid_until_s > now_s:
                enough -= lease.free_nano_usd
        return enough > 0

    def be_quiet(self, now_s: float) -> None:
        """Credit is short: for a while nothing beyond what is needed is wished for."""
        self._quiet_until_s = now_s + QUIET_S

    def is_quiet(self, now_s: float) -> bool:
        """Whether credit was short a moment ago."""
        return now_s < self._quiet_until_s

    def is_idle(self, now_s: float) -> bool:
        """Whether nobody has drawn for a while."""
        return now_s >= self._last_draw_s + IDLE_S

    def retire(self) -> None:
        """No shared lease is drawn from any more."""
        for lease in self._shared.values():
            lease.retired = True

    def retire_drained(self) -> None:
        """A lease that can't serve what was needed last is of no more use once there is a younger one."""
        younger = False
        for lease in reversed(list(self._shared.values())):
            if younger and not lease.may_serve(self._last_need):
                lease.retired = True
            younger = younger or not lease.retired

    def give_back(self) -> list[Lease]:
        """Returns what is free of retired leases; those of which something was."""
        return [lease for lease in self._shared.values() if lease.retired and lease.give_back()]

    def ended(self) -> list[Lease]:
        """Retired leases of which nothing is open or unconfirmed: billing may end them."""
        return [lease for lease in self._shared.values() if lease.retired and lease.is_over]
