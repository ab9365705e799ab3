"""Which provider accounts rest, and until when. Pure: the clock (monotonic seconds) is handed in.

A 429 rests the account for its Retry-After; a refused credential for minutes; failures of the server only once they
repeat, in pauses that double. A 404 is about one model: its account rests for that model alone. A success clears all
of it. What one replica learns the others learn from their own
attempts: the state is small, forgotten at restart, and only ever costs an attempt.
"""

import dataclasses
import enum
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

RATE_LIMIT_BASE_S = 1.0
FAILURE_BASE_S = 1.0
FAILURE_MAX_S = 60.0
TOLERATED_FAILURES = 2
"""In a row, before the first pause: one slow or unlucky answer says nothing about an account."""
CREDENTIAL_BASE_S = 300.0
CREDENTIAL_MAX_S = 3600.0
RETRY_AFTER_MAX_S = 3600.0
WINDOW_S = 60.0
MAX_OUTCOMES = 2000
"""Kept per account for the error rate."""
MAX_MODELS = 1000
"""Models that rest by themselves; below a wildcard callers choose their names, so the longest unheard of is dropped."""


KNOWN_S = 3600.0
"""So long a model that has answered is known, whatever is said of it: some are for some endpoints only, and whoever
asks such a one for another must not take it from those who use it."""


class Verdict(enum.Enum):
    """What an attempt's end says about its account."""

    GOOD = "good"
    RATE_LIMITED = "rate_limited"
    CREDENTIAL_REFUSED = "credential_refused"
    FAILED = "failed"
    MODEL_UNKNOWN = "model_unknown"
    NOTHING = "nothing"


@dataclasses.dataclass(slots=True, kw_only=True)
class _Health:
    rests_until_s: float = 0.0
    rest_began_s: float = float("-inf")
    is_broken: bool = False
    failures: int = 0
    rate_limits: int = 0
    refusals: int = 0
    ends: deque[tuple[float, bool]] = dataclasses.field(default_factory=lambda: deque(maxlen=MAX_OUTCOMES))


class Breaker:
    """The health of all accounts as this replica has seen it."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Health] = {}
        self._models: OrderedDict[tuple[str, str], _Health] = OrderedDict()
        self._answered_s: OrderedDict[tuple[str, str], float] = OrderedDict()

    def is_ready(self, account_id: str, *, now_s: float, model: str = "") -> bool:
        """Whether the account may be called now, for this model of its provider."""
        return self.rests_for_s(account_id, now_s=now_s, model=model) <= 0

    def rests_for_s(self, account_id: str, *, now_s: float, model: str = "") -> float:
        """Seconds until it may be called; 0 when it may now."""
        known = (self._accounts.get(account_id), self._models.get((account_id, model)))
        return max([0.0, *(health.rests_until_s - now_s for health in known if health is not None)])

    def state(self, account_id: str, *, now_s: float) -> str:
        """`ready`, `cooling`, or `broken` when its credential was refused."""
        if self.is_ready(account_id, now_s=now_s):
            return "ready"
        return "broken" if self._accounts[account_id].is_broken else "cooling"

    def error_rate(self, account_id: str, *, now_s: float) -> float:
        """Failures per attempt of the last minute, 0 to 1."""
        health = self._accounts.get(account_id)
        if health is None:
            return 0.0
        recent = [bad for at_s, bad in health.ends if at_s > now_s - WINDOW_S]
        return sum(recent) / len(recent) if recent else 0.0

    def learn(
        self,
        account_id: str,
        verdict: Verdict,
        *,
        started_s: float,
        now_s: float,
        retry_after_s: float = 0.0,
        model: str = "",
    ) -> None:
        """One attempt has ended. An attempt from before the present rest can lengthen it, but is not counted anew:
        a hundred attempts that fail together are one trouble, not a hundred."""
        if verdict is Verdict.NOTHING:
            return
        if verdict is Verdict.MODEL_UNKNOWN and (not model or self._is_known(account_id, model, now_s)):
            return
        if verdict is Verdict.MODEL_UNKNOWN:
            health = self._health_of(account_id, model)
        else:
            health = self._accounts.setdefault(account_id, _Health())
        if verdict is Verdict.GOOD:
            self._models.pop((account_id, model), None)
            if model:
                _put_last(self._answered_s, (account_id, model), now_s)
        health.ends.append((now_s, verdict is not Verdict.GOOD))
        is_news = started_s >= health.rest_began_s
        if verdict is Verdict.GOOD:
            if is_news:
                health.failures = health.rate_limits = health.refusals = 0
                health.rests_until_s, health.is_broken = 0.0, False
            return
        pause_s = self._pause_s(health, verdict, is_news=is_news)
        pause_s = max(pause_s, min(retry_after_s, RETRY_AFTER_MAX_S))
        if pause_s <= 0:
            return
        if now_s >= health.rests_until_s:
            health.rest_began_s, health.is_broken = now_s, False
        health.is_broken = health.is_broken or verdict is Verdict.CREDENTIAL_REFUSED
        health.rests_until_s = max(health.rests_until_s, now_s + pause_s)

    def forget_all_but(self, account_ids: frozenset[str]) -> None:
        """Drops accounts that have left the config."""
        for gone in self._accounts.keys() - account_ids:
            del self._accounts[gone]
        self._drop_models(lambda owner: owner not in account_ids)

    def forget(self, account_id: str) -> None:
        """Its credential was changed: what was learnt may no longer hold."""
        self._accounts.pop(account_id, None)
        self._drop_models(lambda owner: owner == account_id)

    def _drop_models(self, is_gone: Callable[[str], bool]) -> None:
        for known in (self._models, self._answered_s):
            for key in [key for key in known if is_gone(key[0])]:
                del known[key]

    def _is_known(self, account_id: str, model: str, now_s: float) -> bool:
        return now_s - self._answered_s.get((account_id, model), float("-inf")) < KNOWN_S

    def _health_of(self, account_id: str, model: str) -> _Health:
        health = self._models.get((account_id, model)) or _Health()
        _put_last(self._models, (account_id, model), health)
        return health

    @staticmethod
    def _pause_s(health: _Health, verdict: Verdict, *, is_news: bool) -> float:
        if not is_news:
            return 0.0
        if verdict is Verdict.RATE_LIMITED:
            health.rate_limits += 1
            return _doubled(RATE_LIMIT_BASE_S, health.rate_limits - 1, FAILURE_MAX_S)
        if verdict is Verdict.CREDENTIAL_REFUSED:
            health.refusals += 1
            return _doubled(CREDENTIAL_BASE_S, health.refusals - 1, CREDENTIAL_MAX_S)
        health.failures += 1
        if health.failures <= TOLERATED_FAILURES:
            return 0.0
        return _doubled(FAILURE_BASE_S, health.failures - TOLERATED_FAILURES - 1, FAILURE_MAX_S)


def _put_last(known: OrderedDict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_MODELS:
        known.popitem(last=False)


def _doubled(base_s: float, times: int, most_s: float) -> float:
    return float(min(most_s, base_s * 2 ** min(times, 30)))
