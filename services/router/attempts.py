"""The attempts that this replica has decided on: what makes `Decide` idempotent and tells an account's load.

In memory and bounded: an attempt whose end was told to nobody, or to another replica, is dropped when its spender no
longer states it or has fallen silent, and, whatever is known, once its route's own total time is over. Slots are not
counted here but in PostgreSQL (store.py); losing this book costs nothing but a repeated choice.
"""

import dataclasses
from collections import Counter, OrderedDict

from pricing.prices import PriceVersion
from services.router.pool import Target
from services.router.registry import Model
from services.router.suspicion import Suspicion

MAX_RUNNING = 100_000
MAX_ENDED = 20_000
SILENT_S = 35.0
"""A spender that has stated nothing for so long (a lease of 30 s, and 5 s for its statement to arrive) has died."""
MAX_AGE_S = 2 * 3600.0
"""An id that claims to be older was made by a clock that can't be believed."""
OVERDUE_S = 60.0
"""After its total and drain time no attempt can run; so much more for its end to reach us."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One decision, as it was made; a later config doesn't change it. `started_s` is monotonic, `first_byte_s` what it
    may wait for."""

    id: str
    request_id: str
    spender: str
    model: Model
    target: Target
    price: PriceVersion
    may_retry: bool
    holds_slot: bool
    started_s: float
    first_byte_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a spender's statement, made at `as_of`: what runs of its attempts in [from, until).

    Ids are canonical text, so they sort by time; no page speaks of what is younger than its statement.
    """

    spender: str
    as_of: str
    listed: frozenset[str] = frozenset()
    from_id: str = ""
    until_id: str = ""

    @property
    def end_id(self) -> str:
        """Where the range ends."""
        return min(self.until_id or self.as_of, self.as_of)

    def omits(self, attempt_id: str) -> bool:
        """Whether that attempt, of this spender, is over."""
        return self.from_id <= attempt_id < self.end_id and attempt_id not in self.listed


class AttemptBook:
    """Running attempts, and which account the lately ended ones had."""

    def __init__(self) -> None:
        self._running: OrderedDict[str, Attempt] = OrderedDict()
        self._ended: OrderedDict[str, tuple[str, bool]] = OrderedDict()
        self._loads: Counter[str] = Counter()
        self.suspicion = Suspicion()

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, attempt: Attempt) -> None:
        """It runs from now on. An overfull book loses its oldest."""
        self._running[attempt.id] = attempt
        self._loads[attempt.target.account.id] += 1
        self.suspicion.began(attempt.target.account.id, attempt.id, now_s=attempt.started_s)
        while len(self._running) > MAX_RUNNING:
            self.end(next(iter(self._running)))

    def find(self, attempt_id: str) -> Attempt | None:
        """The running attempt."""
        return self._running.get(attempt_id)

    def end(self, attempt_id: str, *, left_s: float | None = None) -> Attempt | None:
        """Takes it out; None when it wasn't running here. `left_s` is when its caller left it without an answer."""
        attempt = self._running.pop(attempt_id, None)
        if attempt is None:
            return None
        account_id = attempt.target.account.id
        if left_s is None or not self.suspicion.is_long(account_id, left_s - attempt.started_s):
            self.suspicion.ended(account_id, attempt_id)
        self._loads[account_id] -= 1
        if not self._loads[account_id]:
            del self._loads[account_id]
        return attempt

    def remember_ended(self, attempt_id: str, account_id: str, *, owes_slot: bool) -> None:
        """Keeps its account in mind; `owes_slot` while its slot could not be given back yet."""
        self._ended[attempt_id] = (account_id, owes_slot)
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def ended_at(self, attempt_id: str) -> str | None:
        """The account of an attempt that has ended; None when not known."""
        ended = self._ended.get(attempt_id)
        return None if ended is None else ended[0]

    def is_settled(self, attempt_id: str) -> bool:
        """Whether it is known to have ended and to hold no slot."""
        ended = self._ended.get(attempt_id)
        return ended is not None and not ended[1]

    def spenders(self) -> frozenset[str]:
        """Whose attempts run here."""
        return frozenset(attempt.spender for attempt in self._running.values())

    def load_of(self, account_id: str) -> int:
        """Running attempts on the account, decided by this replica."""
        return self._loads.get(account_id, 0)

    def keep_only(self, page: Page) -> None:
        """Drops the spender's attempts that the page should list but doesn't."""
        gone = [
            attempt.id
            for attempt in self._running.values()
            if attempt.spender == page.spender and page.omits(attempt.id)
        ]
        for attempt_id in gone:
            self.end(attempt_id)

    def drop_silent(self, spenders: frozenset[str], *, now_s: float) -> None:
        """Drops what these spenders, who speak no more, began a lease ago or earlier."""
        gone = [
            attempt.id
            for attempt in self._running.values()
            if attempt.spender in spenders and now_s - attempt.started_s > SILENT_S
        ]
        for attempt_id in gone:
            self.end(attempt_id)

    def drop_overdue(self, *, now_s: float) -> None:
        """Drops attempts that can no longer run, whether or not there is a database to learn of their end."""
        gone = [attempt.id for attempt in self._running.values() if now_s > _runs_until_s(attempt) + OVERDUE_S]
        for attempt_id in gone:
            self.end(attempt_id)


def _runs_until_s(attempt: Attempt) -> float:
    provider = attempt.target.route.provider
    return attempt.started_s + provider.timeouts.total_s + provider.drain_s
