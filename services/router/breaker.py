"""Which provider accounts rest, and until when. Pure: the clock (monotonic seconds) is handed in.

A 429 rests the account for its Retry-After; a refused credential for minutes; failures of the server once they repeat,
in a row or as half of what it lately got, in pauses that double. A 404 is about one model: its account rests for that
model alone. After its rest an account is on trial: one attempt at a time probes it, until a success clears all of it or
a failure doubles the rest. What one replica learns the others hear (`shared_rests`).
"""

import dataclasses
import enum
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
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
RATE_WINDOW_S = 30.0
RATE_LEAST = 10
"""Of so many attempts in that time half have failed: the account rests, though some succeed in between."""
PROBE_MARGIN_S = 2.0
"""After a probe's time to its first byte, for its end to reach us; then another may probe."""
PROBE_SHARE = 0.125
"""Of its time to the first byte, for the first probe of an account that hung; each further one gets twice as much."""
MOST_DOUBLED = 8
HEARD_TIMES = 2.0
HEARD_FIRST_S = 5.0
HEARD_MOST_S = 30.0
"""After a rest whoever told of it probes first; those who heard of it when that one must have said how it went."""
SPARED = "nobody"
LATELY_S = 10.0
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


class Standing(enum.Enum):
    """How an account stands: on trial it wants one attempt, probed no other one where there are other accounts."""

    SOUND = "sound"
    ON_TRIAL = "on_trial"
    PROBED = "probed"
    RESTING = "resting"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What replicas tell each other of an account: `is_open` from a rest's beginning until a success."""

    account_id: str
    is_open: bool
    rests_for_s: float
    pause_s: float
    is_broken: bool


@dataclasses.dataclass(slots=True, kw_only=True)
class _Health:
    """`pause_s` is the last pause of our own, 0 once all is well; `rate_pause_s` the last one for the error rate;
    `is_hung` when what failed last had waited in vain."""

    is_open: bool = False
    rests: int = 0
    rests_until_s: float = 0.0
    rest_began_s: float = float("-inf")
    is_broken: bool = False
    is_hung: bool = False
    failures: int = 0
    pause_s: float = 0.0
    rate_pause_s: float = 0.0
    rate_until_s: float = float("-inf")
    judged_from_s: float = float("-inf")
    probe: str = ""
    probe_until_s: float = 0.0
    ends: deque[tuple[float, bool]] = dataclasses.field(default_factory=lambda: deque(maxlen=MAX_OUTCOMES))

    def is_on_trial(self, now_s: float) -> bool:
        return self.is_open and now_s >= self.rests_until_s

    def is_probed(self, now_s: float) -> bool:
        return self.is_on_trial(now_s) and bool(self.probe) and now_s < self.probe_until_s

    def rest(self, *, now_s: float, until_s: float) -> None:
        if now_s >= self.rests_until_s:
            self.rest_began_s = self.judged_from_s = now_s
            self.is_broken, self.probe = False, ""
            self.rests += 1
        self.is_open = True
        self.rests_until_s = max(self.rests_until_s, until_s)

    def spare(self, seconds: float) -> None:
        """For so long after the rest nobody probes it, unless there is no other account."""
        self.probe, self.probe_until_s = SPARED, self.rests_until_s + seconds

    def close(self, *, now_s: float) -> None:
        self.is_open = self.is_broken = self.is_hung = False
        self.rests, self.failures, self.pause_s, self.rests_until_s, self.probe = 0, 0, 0.0, 0.0, ""
        self.judged_from_s = now_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An account begins to rest, for so long and because of this, or is found well again after a rest (`GOOD`)."""

    account_id: str
    verdict: Verdict
    rests_for_s: float = 0.0


class Breaker:
    """The health of all accounts as this replica has seen it. `tell` hears when one turns; it must not raise."""

    def __init__(self, *, tell: Callable[[Turn], None] = lambda _: None) -> None:
        self._tell = tell
        self._accounts: dict[str, _Health] = {}
        self._models: OrderedDict[tuple[str, str], _Health] = OrderedDict()
        self._answered_s: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._untold: dict[str, None] = {}

    def is_ready(self, account_id: str, *, now_s: float, model: str = "") -> bool:
        """Whether the account may be called now, for this model of its provider."""
        return self.rests_for_s(account_id, now_s=now_s, model=model) <= 0

    def rests_for_s(self, account_id: str, *, now_s: float, model: str = "") -> float:
        """Seconds until it may be called; 0 when it may now."""
        return max([0.0, *(health.rests_until_s - now_s for health in self._known(account_id, model))])

    def standing(self, account_id: str, *, now_s: float, model: str = "") -> Standing:
        """Whether the account rests, is on trial, or is being probed."""
        known = self._known(account_id, model)
        if any(now_s < health.rests_until_s for health in known):
            return Standing.RESTING
        if any(health.is_probed(now_s) for health in known):
            return Standing.PROBED
        return Standing.ON_TRIAL if any(health.is_on_trial(now_s) for health in known) else Standing.SOUND

    def is_failing(self, account_id: str, *, now_s: float, model: str = "") -> bool:
        """Whether an attempt there is likely to fail: it is on trial, or half of its last ones failed."""
        if self.standing(account_id, now_s=now_s, model=model) is not Standing.SOUND:
            return True
        health = self._accounts.get(account_id)
        recent = [bad for at_s, bad in health.ends if at_s > now_s - LATELY_S] if health is not None else []
        return bool(recent) and 2 * sum(recent) >= len(recent)

    def begin(self, account_id: str, *, attempt_id: str, now_s: float, first_byte_s: float, model: str = "") -> None:
        """An attempt goes there: on an account on trial it is the probe, unless there is one."""
        for health in self._known(account_id, model):
            if health.is_on_trial(now_s) and not health.is_probed(now_s):
                health.probe, health.probe_until_s = attempt_id, now_s + first_byte_s + PROBE_MARGIN_S

    def share(self, account_id: str, *, attempt_id: str, model: str = "") -> float:
        """The part of its time that an attempt may wait: less than all of it for the probe of an account that hung."""
        shares = [
            PROBE_SHARE * 2.0 ** (health.rests - 1)
            for health in self._known(account_id, model)
            if health.is_hung and health.probe == attempt_id and health.rests < MOST_DOUBLED
        ]
        return min([1.0, *shares])

    def withdraw(self, account_id: str, *, attempt_id: str, model: str = "") -> None:
        """The attempt doesn't go there after all, or has ended: it probes no more."""
        for health in self._known(account_id, model):
            if health.probe == attempt_id:
                health.probe = ""

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
        attempt_id: str = "",
        waited_s: float = 0.0,
    ) -> None:
        """One attempt has ended. An attempt from before the present rest can lengthen it, but is not counted anew:
        a hundred attempts that fail together are one trouble, not a hundred. A rest is never shorter than the failed
        attempt made its caller wait (`waited_s`).
        """
        self.withdraw(account_id, attempt_id=attempt_id, model=model)
        if verdict is Verdict.NOTHING:
            return
        if verdict is Verdict.MODEL_UNKNOWN and (not model or self._is_known(account_id, model, now_s)):
            return
        if verdict is Verdict.GOOD:
            self._models.pop((account_id, model), None)
            if model:
                _put_last(self._answered_s, (account_id, model), now_s)
        of_model = verdict is Verdict.MODEL_UNKNOWN
        health = self._health_of(account_id, model) if of_model else self._accounts.setdefault(account_id, _Health())
        health.ends.append((now_s, verdict is not Verdict.GOOD))
        is_news = started_s >= health.rest_began_s
        if verdict is Verdict.GOOD:
            health.failures = 0 if is_news else health.failures
            if is_news and health.is_open:
                health.close(now_s=now_s)
                self._untold[account_id] = None
                self._tell(Turn(account_id=account_id, verdict=verdict))
            return
        if is_news and waited_s:
            health.failures += 1  # it cost its caller more than others do: two in a row are enough
        pause_s = _pause_s(health, verdict, now_s=now_s) if is_news else 0.0
        if pause_s:
            pause_s = health.pause_s = max(health.pause_s, pause_s, min(waited_s, FAILURE_MAX_S))
            health.is_hung = waited_s > 0
        pause_s = max(pause_s, min(retry_after_s, RETRY_AFTER_MAX_S))
        if pause_s <= 0:
            return
        turns = now_s >= health.rests_until_s or (verdict is Verdict.CREDENTIAL_REFUSED and not health.is_broken)
        health.rest(now_s=now_s, until_s=now_s + pause_s)
        health.is_broken = health.is_broken or verdict is Verdict.CREDENTIAL_REFUSED
        if not of_model:
            self._untold[account_id] = None
        if turns and not of_model:
            self._tell(Turn(account_id=account_id, verdict=verdict, rests_for_s=health.rests_until_s - now_s))

    # What replicas tell each other

    def untold(self, *, now_s: float) -> list[Rest]:
        """What was learnt here since this was last asked."""
        told = [self._rest_of(account_id, now_s) for account_id in self._untold if account_id in self._accounts]
        self._untold.clear()
        return told

    def tell_again(self, rests: Iterable[Rest]) -> None:
        """The others have not heard it."""
        self._untold |= {rest.account_id: None for rest in rests}

    def hear(self, rest: Rest, *, now_s: float, is_ours: bool = False) -> None:
        """What another replica has learnt; where this one has learnt something since, the others will hear that.

        `is_ours` when this replica was the last to say so too: the trial is its own, and the others wait to hear of it.
        """
        if rest.account_id in self._untold or (not rest.is_open and rest.account_id not in self._accounts):
            return
        health = self._accounts.setdefault(rest.account_id, _Health())
        if not rest.is_open:
            if health.is_open:
                health.close(now_s=now_s)
            return
        if health.is_open and rest.rests_for_s <= 0:
            return
        # attempts that began before now are no news: they knew nothing of this rest
        health.rest(now_s=now_s, until_s=now_s + min(rest.rests_for_s, RETRY_AFTER_MAX_S))  # the database's clock moves
        if not is_ours:
            health.spare(min(HEARD_TIMES * rest.pause_s, HEARD_MOST_S) + HEARD_FIRST_S)
        health.is_broken = health.is_broken or rest.is_broken
        health.pause_s = max(health.pause_s, rest.pause_s)

    def _rest_of(self, account_id: str, now_s: float) -> Rest:
        health = self._accounts[account_id]
        return Rest(
            account_id=account_id,
            is_open=health.is_open,
            rests_for_s=max(0.0, health.rests_until_s - now_s),
            pause_s=health.pause_s,
            is_broken=health.is_broken,
        )

    def _known(self, account_id: str, model: str) -> list[_Health]:
        known = (self._accounts.get(account_id), self._models.get((account_id, model)))
        return [health for health in known if health is not None]

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
        for account_id in [account_id for account_id in self._untold if is_gone(account_id)]:
            del self._untold[account_id]
        for known in (self._models, self._answered_s):
            for key in [key for key in known if is_gone(key[0])]:
                del known[key]

    def _is_known(self, account_id: str, model: str, now_s: float) -> bool:
        return now_s - self._answered_s.get((account_id, model), float("-inf")) < KNOWN_S

    def _health_of(self, account_id: str, model: str) -> _Health:
        health = self._models.get((account_id, model)) or _Health()
        _put_last(self._models, (account_id, model), health)
        return health


def _pause_s(health: _Health, verdict: Verdict, *, now_s: float) -> float:
    if verdict is Verdict.RATE_LIMITED:
        health.pause_s = _doubled(health.pause_s, RATE_LIMIT_BASE_S, FAILURE_MAX_S)
        return health.pause_s
    if verdict is Verdict.CREDENTIAL_REFUSED:
        health.pause_s = _doubled(health.pause_s, CREDENTIAL_BASE_S, CREDENTIAL_MAX_S)
        return health.pause_s
    health.failures += 1
    if health.is_open or health.failures > TOLERATED_FAILURES:
        health.pause_s = _doubled(health.pause_s, FAILURE_BASE_S, FAILURE_MAX_S)
        return health.pause_s
    return _rate_pause_s(health, now_s)


def _rate_pause_s(health: _Health, now_s: float) -> float:
    """The pause of an account that fails half the time; successes don't shorten it, only a good minute does."""
    since_s = max(now_s - RATE_WINDOW_S, health.judged_from_s)
    recent = [is_bad for at_s, is_bad in health.ends if at_s > since_s]
    if len(recent) < RATE_LEAST or 2 * sum(recent) < len(recent):
        return 0.0
    former_s = health.rate_pause_s if now_s < health.rate_until_s + WINDOW_S else 0.0
    health.rate_pause_s = _doubled(former_s, FAILURE_BASE_S, FAILURE_MAX_S)
    health.rate_until_s = now_s + health.rate_pause_s
    return health.rate_pause_s


def _put_last(known: OrderedDict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_MODELS:
        known.popitem(last=False)


def _doubled(former_s: float, least_s: float, most_s: float) -> float:
    return min(most_s, max(least_s, 2 * former_s))
