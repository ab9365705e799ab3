"""Accounts that have gone quiet: nothing that began there lately has succeeded, though it should have long ago.

An account that hangs teaches the breaker something only when the time of its first attempts is over; by then many more
have begun. Until then others are preferred to an account on which several attempts run for a multiple of what whole
answers usually take there, while nothing that began after them has succeeded. Those whose callers lost patience with
them count on: else an account that hangs for longer than callers wait would never be left alone. A suspicion refuses
nothing: it only orders, and ends with the first success, or once those attempts would have failed without a first byte.
"""

from collections import OrderedDict
from itertools import islice

AT_LEAST = 2
"""Attempts: one slow answer says nothing."""
TIMES = 2.0
LEAST_S = 0.15
MOST = 10_000
"""Attempts that are known of on an account; the oldest is forgotten."""
KEPT = 0.98
"""Of the longest time that an answer took, at each success: the last hundred or so say what is usual."""


class Suspicion:
    """What runs on each account since its last success, and how long its answers take. In memory, as `AttemptBook`."""

    def __init__(self) -> None:
        self._unproved: dict[str, OrderedDict[str, float]] = {}
        self._usual_s: dict[str, float] = {}

    def began(self, account_id: str, attempt_id: str, *, now_s: float) -> None:
        """An attempt runs there from now on."""
        running = self._unproved.setdefault(account_id, OrderedDict())
        running[attempt_id] = now_s
        if len(running) > MOST:
            running.popitem(last=False)

    def is_long(self, account_id: str, seconds: float) -> bool:
        """Whether that is far longer than answers there lately took; never where that isn't known."""
        usual_s = self._usual_s.get(account_id)
        return usual_s is not None and seconds > max(LEAST_S, TIMES * usual_s)

    def ended(self, account_id: str, attempt_id: str) -> None:
        """It runs no more, however it ended."""
        running = self._unproved.get(account_id)
        if running is not None:
            running.pop(attempt_id, None)
            if not running:
                del self._unproved[account_id]

    def succeeded(self, account_id: str, *, started_s: float, now_s: float) -> None:
        """An attempt of that time succeeded: whatever began before it may just be slow."""
        self._usual_s[account_id] = max(now_s - started_s, KEPT * self._usual_s.get(account_id, 0.0))
        running = self._unproved.get(account_id) or OrderedDict[str, float]()
        for attempt_id in [each for each, began_s in running.items() if began_s <= started_s]:
            self.ended(account_id, attempt_id)

    def is_quiet(self, account_id: str, *, now_s: float, first_byte_s: float) -> bool:
        """Whether others should be preferred; what ran for `first_byte_s` has had its first byte."""
        running = self._unproved.get(account_id)
        if running is None:
            return False
        while running and now_s - next(iter(running.values())) > first_byte_s:
            running.popitem(last=False)
        later = islice(running.values(), AT_LEAST - 1, AT_LEAST)
        return any(self.is_long(account_id, now_s - began_s) for began_s in later)

    def forget_all_but(self, account_ids: frozenset[str]) -> None:
        """Drops accounts that have left the config."""
        for known in (self._usual_s, self._unproved):
            for gone in known.keys() - account_ids:
                del known[gone]
