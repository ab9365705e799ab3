"""What this incarnation may still do for one subject: its leases of limits, and what requests have drawn. Pure.

A *subject* is a key, or a customer whose keys share. Of each kind that is limited auth leases units, which are held
here until they are said to be spent. Of the held ones some are open (a request runs on them), some were spent since
auth was last heard, the rest is free. Units are spent with the time at which they were, so that auth counts each from
then on; seconds are handed in, and auth is told ages only.

From a statement to its answer nothing is drawn: auth may give what is free to others meanwhile. What is open it never
takes. So no more is ever drawn than auth counts, whichever statement is lost, late or told twice.
"""

import math
from collections.abc import Mapping

from services.edge.limits.share import WINDOW_S, Share
from services.edge.limits.terms import Figures, Kind, LeaseOfKind, Statement, Terms


class Draw:
    """What one request has drawn. `begun` once its provider was called; open tokens count from then on."""

    __slots__ = ("begun", "concurrent", "ended", "requests", "started_s", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.concurrent = 0
        self.begun = self.ended = False
        self.started_s = 0.0


class Allotment:
    """The shares of one subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.valid_until_s = 0.0
        self.told_at_s = -math.inf
        self._terms: Terms | None = None
        self._shares: dict[Kind, Share] = {}
        self._limited: tuple[Share, ...] = ()
        self._since = 0
        self._number = 0  # of the statement that is not answered yet
        self._asked_at_s = 0.0
        self._ttl_s = 0.0
        self._draws = 0  # that have not ended
        self._running: dict[Draw, None] = {}  # whose tokens are open, in the order in which they began

    def limit_by(self, terms: Terms) -> None:
        """From now on these limits hold. A kind that is limited no more is given back."""
        if self._terms is terms:
            return
        self._terms = terms
        for kind, limit in terms.limits.items():
            share = self._shares.get(kind)
            if share is None:
                self._shares[kind] = Share(kind, limit)
                self.told_at_s = -math.inf
            else:
                share.limit = limit
        self._limited = tuple(share for kind, share in self._shares.items() if kind in terms.limits)

    def limit_of(self, kind: Kind) -> int | None:
        """How much of a kind, None where it is not limited."""
        return self._terms.limits.get(kind) if self._terms is not None else None

    @property
    def in_doubt(self) -> bool:
        """Whether a statement was made that has no answer."""
        return self._number > 0

    @property
    def is_settled(self) -> bool:
        """Whether auth would learn nothing by its being forgotten here."""
        return not self.in_doubt and not self._draws and all(share.is_settled for share in self._shares.values())

    def has_news(self, now_s: float) -> bool:
        """Whether there is something to tell auth within a second."""
        return self.in_doubt or any(share.has_news(now_s) for share in self._shares.values())

    def has_much_to_return(self, now_s: float) -> bool:
        """Whether so much is free that others may miss it before a second is over."""
        return any(share.free - share.spare(now_s) > share.negligible for share in self._shares.values())

    def lacking(self, tokens: int) -> list[Share]:
        """The shares that have too little for one more request."""
        return [share for share in self._limited if share.free < _need(share.kind, tokens)]

    def refusal(self, tokens: int, *, now_s: float) -> tuple[Kind, float] | None:
        """Of which kind there was too little a moment ago, and in how many seconds to come again."""
        for share in self._limited:
            again_s = share.refused_for_s(_need(share.kind, tokens), now_s=now_s)
            if again_s > 0:
                return share.kind, again_s
        return None

    def draw(self, tokens: int, *, now_s: float) -> Draw | None:
        """One request's units, all or none: none also while auth may be giving away what is free."""
        if self.in_doubt or now_s >= self.valid_until_s or self.lacking(tokens):
            return None
        draw = Draw()
        self._draws += 1
        for share in self._limited:
            units = _need(share.kind, tokens)
            share.draw(units, now_s=now_s)
            if share.kind is Kind.REQUESTS:
                draw.requests = units
            elif share.kind is Kind.TOKENS:
                draw.tokens = units
            else:
                draw.concurrent = units
        return draw

    def begin(self, draw: Draw, *, now_s: float) -> None:
        """The request goes to a provider now: it counts from here, whatever comes of it. The first call counts."""
        if draw.begun or draw.ended:
            return
        draw.begun, draw.started_s = True, now_s
        if draw.requests:
            self._shares[Kind.REQUESTS].spend(draw.requests, at_s=now_s)
        if draw.tokens:
            self._running[draw] = None

    def end(self, draw: Draw, *, tokens: int, now_s: float) -> None:
        """The request is over and has used so many tokens. One that never began has used nothing up."""
        if draw.ended:
            return
        draw.ended = True
        self._draws -= 1
        if draw.concurrent:
            self._shares[Kind.CONCURRENT].put_back(draw.concurrent)
        if draw.requests and not draw.begun:
            self._shares[Kind.REQUESTS].put_back(draw.requests)
        if not draw.tokens:
            return
        share = self._shares[Kind.TOKENS]
        if not draw.begun:
            share.put_back(draw.tokens)
            return
        if draw in self._running:
            del self._running[draw]
            share.spend(min(tokens, draw.tokens), at_s=draw.started_s)
            share.put_back(draw.tokens - min(tokens, draw.tokens))
        share.overspend(tokens - draw.tokens, at_s=now_s)

    def retire(self) -> None:
        """No more requests will come: nothing is held for them."""
        for share in self._shares.values():
            share.retired = True

    def lapse(self, now_s: float) -> None:
        """Tokens of requests that have run for a whole window count from their start: no more."""
        for draw in list(self._running):
            if draw.started_s > now_s - WINDOW_S:
                return
            del self._running[draw]
            self._shares[Kind.TOKENS].spend(draw.tokens, at_s=draw.started_s)

    def statement(self, *, number: int, waiting: Mapping[Kind, int], now_s: float) -> Statement:
        """What to tell auth now; until its answer is adopted nothing is drawn. `waiting` is what is asked for."""
        self._since = self._since or number
        self._number, self._asked_at_s = number, now_s
        limits = [
            share.statement(needed=waiting.get(kind, 0) if share in self._limited else 0, now_s=now_s)
            for kind, share in self._shares.items()
        ]
        return Statement(subject=self.subject, since=self._since, number=number, limits=tuple(limits))

    def adopt(self, leases: Mapping[Kind, LeaseOfKind], *, ttl_s: float, now_s: float) -> None:
        """Auth's answer to the newest statement."""
        self._number = 0
        self.told_at_s = self._asked_at_s
        self._ttl_s = ttl_s
        self.valid_until_s = max(self.valid_until_s, self._asked_at_s + ttl_s)
        for kind, lease in leases.items():
            self._shares[kind].adopt(lease, now_s=now_s)

    def renew(self, asked_at_s: float) -> None:
        """Auth was heard to keep what it leased; it counts its time from no earlier than when it was asked.

        What had run out by then may be others' already: only an answer about this subject brings it back.
        """
        if asked_at_s < self.valid_until_s:
            self.valid_until_s = max(self.valid_until_s, asked_at_s + self._ttl_s)

    def figures(self, now_s: float) -> dict[Kind, Figures]:
        """What clients are told, of each kind that is limited."""
        return {share.kind: share.figures(now_s) for share in self._limited}


def _need(kind: Kind, tokens: int) -> int:
    return tokens if kind is Kind.TOKENS else 1
