"""The units of one kind that this incarnation holds for one subject. Pure: `allotment.py` has the rules."""

import math
from collections.abc import Iterator

from services.edge.limits.terms import Figures, Kind, KindStatement, LeaseOfKind, Spent
from services.edge.spending.wallet import Demand

WINDOW_S = 60.0
BUCKET_S = 0.25
SLOT_S = 0.05
"""Units that were spent so close to each other are told as one, with the time of the later end."""
SPARE_FROM = 16
"""No more than one part in so many of a limit is held for requests that may come, or kept for a moment after them."""
_SPARED = {Kind.REQUESTS: 600, Kind.TOKENS: 100_000, Kind.CONCURRENT: 64}
"""Below these limits nothing is held in advance: it would be missing elsewhere, and asking is cheap at such rates."""


class Share:
    """The units of one kind."""

    __slots__ = (
        "_demand",
        "_full_at_s",
        "_held",
        "_known",
        "_lately",
        "_refused",
        "_sent",
        "_sent_slots",
        "_sent_used",
        "_told",
        "_told_used",
        "is_short",
        "kind",
        "limit",
        "open",
        "retired",
        "retry_after_s",
        "spent",
    )

    def __init__(self, kind: Kind, limit: int) -> None:
        self.kind = kind
        self.limit = limit
        self.open = 0
        self.spent = 0
        self.is_short = False
        self.retired = False
        self.retry_after_s = 0.0
        self._held = 0
        self._known = 0  # of what was spent, as much as auth has heard of
        self._lately: dict[int, int] = {}
        self._sent: KindStatement | None = None
        self._sent_slots: dict[int, int] = {}
        self._told = 0
        self._told_used = 0
        self._sent_used = 0
        self._full_at_s = math.inf  # unknown
        self._refused: tuple[float, float, int] = (0.0, 0.0, 0)  # until when, when to come again, how much was needed
        self._demand = Demand()

    @property
    def free(self) -> int:
        """What could be drawn; below 0 when more was used than had been drawn."""
        return self._held - self.open - (self.spent - self._known)

    @property
    def negligible(self) -> int:
        """How much nobody misses for a second. Of what runs at once every one is missed."""
        return 0 if self.kind is Kind.CONCURRENT else self.limit // SPARE_FROM

    @property
    def is_settled(self) -> bool:
        """Whether nothing is held, open, or to be told."""
        return not self._held and not self.open and self.spent == self._known

    def draw(self, units: int, *, now_s: float) -> None:
        """Takes free units for a request."""
        self.open += units
        self._demand.add(units, now_s=now_s)
        self._full_at_s = now_s + WINDOW_S + BUCKET_S

    def put_back(self, units: int) -> None:
        """A request did not need what it had drawn, or needs it no longer."""
        self.open -= units
        self._refused = (0.0, 0.0, 0)

    def spend(self, units: int, *, at_s: float) -> None:
        """Turns open units into spent ones, as of then."""
        self.open -= units
        self.overspend(units, at_s=at_s)

    def overspend(self, units: int, *, at_s: float) -> None:
        """Counts units that nobody had drawn."""
        if units <= 0:
            return
        self.spent += units
        slot = math.ceil(at_s / SLOT_S)
        self._lately[slot] = self._lately.get(slot, 0) + units
        self._full_at_s = max(self._full_at_s if self._full_at_s < math.inf else 0, at_s + WINDOW_S + BUCKET_S)

    def spare(self, now_s: float) -> int:
        """How much to hold for requests that may come: what two seconds needed; nothing once none will."""
        if self.retired or self.limit < _SPARED[self.kind]:
            return 0
        return min(self._demand.recent(now_s), self.limit // SPARE_FROM)

    def has_news(self, now_s: float) -> bool:
        """Whether auth should hear of it within a second."""
        return self.spent != self._known or self.free > self.spare(now_s)

    def statement(self, *, needed: int, now_s: float) -> KindStatement:
        """What to tell and ask now."""
        oldest = math.ceil((now_s - WINDOW_S) / SLOT_S) - 20
        if self._lately and min(self._lately) < oldest:  # these count no more
            self._lately = {slot: units for slot, units in self._lately.items() if slot >= oldest}
        self._sent = KindStatement(
            kind=self.kind,
            limit=self.limit,
            spent=self.spent,
            lately=tuple(self._ages(now_s)),
            open=self.open,
            wanted=self.open + needed + self.spare(now_s),
            needed=needed,
        )
        self._sent_used = self.open + self.spent
        self._sent_slots = dict(self._lately)
        return self._sent

    def adopt(self, lease: LeaseOfKind, *, now_s: float) -> None:
        """Auth has answered the last statement."""
        sent = self._sent
        if sent is None:
            return
        before = self.remaining
        self._held, self._known = lease.held, sent.spent
        self._told, self._told_used = lease.remaining, self._sent_used
        for slot, units in self._sent_slots.items():
            left = self._lately.get(slot, 0) - units
            if left > 0:
                self._lately[slot] = left
            else:
                self._lately.pop(slot, None)
        self.is_short = lease.held - sent.open < sent.needed
        if not self.is_short:
            self._refused = (0.0, 0.0, 0)
        self.retry_after_s = lease.retry_after_s
        if self._told + sent.open >= self.limit and not sent.open:
            self._full_at_s = now_s
        elif self.remaining < before or self._full_at_s in (math.inf, 0.0) or self._full_at_s < now_s:
            self._full_at_s = now_s + WINDOW_S + BUCKET_S  # somebody else has used some of it

    @property
    def remaining(self) -> int:
        """What could be admitted now, over all replicas: as auth said last, less what was used here since."""
        return max(0, self._told - (self.open + self.spent - self._told_used))

    def figures(self, now_s: float) -> Figures:
        """What clients are told."""
        reset_s = min(WINDOW_S, max(0.0, self._full_at_s - now_s))
        return Figures(limit=self.limit, remaining=min(self.limit, self.remaining), reset_s=reset_s)

    def refuse(self, units: int, *, now_s: float, remember_s: float) -> None:
        """So many could not be had: until then nobody asks again for as many."""
        until_s = now_s + min(remember_s, self.retry_after_s)
        self._refused = (until_s, now_s + self.retry_after_s, units)

    def refused_for_s(self, units: int, *, now_s: float) -> float:
        """In how many seconds to come again for so many units; 0 when that is not known."""
        until_s, again_s, refused = self._refused
        return again_s - now_s if now_s < until_s and units >= refused else 0.0

    def _ages(self, now_s: float) -> Iterator[Spent]:
        for slot in sorted(self._lately, reverse=True):
            yield Spent(units=self._lately[slot], age_ms=max(0, math.floor((now_s - slot * SLOT_S) * 1000)))
