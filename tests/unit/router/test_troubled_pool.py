"""One of two accounts is in trouble, in virtual time: two routers that tell each other, and callers at a steady pace.

Whatever the trouble, the pace and the timeout are: no caller meets an error, the slowest hundredth waits for less than
one attempt may take, and the account has its share again some time after it is well.
"""

import dataclasses
import functools
import heapq
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from chassis.config import read
from chassis.errors import TollbridgeError
from services.router.asked import LEFT, Ask, End
from services.router.attempts import Attempt, AttemptBook, Page
from services.router.breaker import Breaker, Rest, Verdict
from services.router.config import parse
from services.router.decide import TIMED_OUT, Decider
from services.router.slot_desk import Stated

T = TypeVar("T")
CONFIG = """
providers:
  - {id: pa, protocol: openai, base_url: "http://x/v1", accounts: [{id: a, api_key: k}], timeouts: {first_byte: %(t)s}}
  - {id: pb, protocol: openai, base_url: "http://x/v1", accounts: [{id: b, api_key: l}], timeouts: {first_byte: %(t)s}}
models:
  - {id: m, price: {input: 1, output: 2}, routes: [{provider: pa, model: x}, {provider: pb, model: x}]}
"""
HANGS = "hangs"
FAILURES = {
    "500": (Verdict.FAILED, "server_error", 0.0),
    "429": (Verdict.RATE_LIMITED, "rate_limited", 1.0),
    "refuses": (Verdict.FAILED, "unreachable", 0.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trouble:
    """What account "a" does: to that share of its attempts, in every other stretch of `flap_s`. Streams last `lasts_s`;
    callers leave after `patience_s`."""

    kind: str = HANGS
    share: float = 1.0
    flap_s: float = 1e9
    lasts_s: float = 0.0
    patience_s: float = 1e9


class NoSlots:
    """A desk that nobody asks."""

    async def take(self, **_: str) -> str | None:
        raise AssertionError

    async def release(self, _: object) -> dict[str, str]:
        return {}

    async def state(self, _: Page) -> None:
        raise AssertionError

    async def stated(self, _: object) -> Stated:
        raise AssertionError

    async def price(self, _: str) -> object:
        raise AssertionError


def at_once(made: Coroutine[Any, Any, T]) -> T:
    """What never waits."""
    try:
        made.send(None)
    except StopIteration as stop:
        found: T = stop.value
        return found
    raise AssertionError


class World:
    """Two routers, two accounts and callers; `ends` is how each call ended and after how long."""

    def __init__(self, directory: Path, *, first_byte_s: float, seed: int) -> None:
        self.now_s, self.first_byte_s, self.source = 1000.0, first_byte_s, random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.ends: list[tuple[str, float]] = []
        self.asked: Counter[str] = Counter()
        self.trouble: Trouble | None = None
        self._since_s = 0.0
        path = directory / "config.yaml"
        path.write_text(CONFIG % {"t": first_byte_s})
        self._breakers = [Breaker() for _ in range(2)]
        self._routers = [self._router(breaker, seed) for breaker in self._breakers]
        for router in self._routers:
            router.use(parse(read(path)))
        self._tell()

    def _router(self, breaker: Breaker, seed: int) -> Decider:
        desk: Any = NoSlots()
        source, book = random.Random(seed), AttemptBook()
        return Decider(desk=desk, shelf=desk, book=book, breaker=breaker, clock=lambda: self.now_s, source=source)

    def _at(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._numbers), event))

    def _tell(self) -> None:
        """Each second what one has learnt is told to the other."""
        told: list[list[Rest]] = [breaker.untold(now_s=self.now_s) for breaker in self._breakers]
        for breaker, rests in zip(self._breakers, reversed(told), strict=True):
            for rest in rests:
                breaker.hear(rest, now_s=self.now_s)
        self._at(1.0, self._tell)

    def play(self, trouble: Trouble | None, *, seconds: float, per_s: float) -> list[tuple[str, float]]:
        """How the calls of that time ended."""
        self.trouble, self._since_s, self.ends = trouble, self.now_s, []
        for number in range(int(seconds * per_s)):
            self._at(number / per_s, functools.partial(self._call, self.source.choice(self._routers)))
        self.until(self.now_s + seconds)
        return self.ends

    def until(self, end_s: float) -> None:
        while self._events[0][0] <= end_s:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        self.now_s = end_s

    def _call(self, router: Decider, *, began_s: float = 0.0, tried: tuple[End, ...] = ()) -> None:
        began_s = began_s or self.now_s
        new = str(uuid.UUID(int=self.source.getrandbits(128)))
        try:
            attempt = at_once(
                router.decide(
                    Ask(request_id=new, attempt_id=new, spender="s", model="m", operation="chat", tried=tried)
                )
            )
        except TollbridgeError as error:
            self.ends.append((error.code.value, self.now_s - began_s))
            return
        self.asked[attempt.target.account.id] += 1
        takes_s, ends = self.source.uniform(0.03, 0.07), self.ends
        patience_s = began_s + (self.trouble.patience_s if self.trouble else 1e9) - self.now_s

        def over(word: str, verdict: Verdict, name: str, first_byte_s: float = 0.0) -> None:
            ends.append((word, self.now_s - began_s))
            lasts_s = self.trouble.lasts_s if self.trouble and verdict is Verdict.GOOD else 0.0
            end = End(attempt_id=attempt.id, verdict=verdict, name=name, account_id="", first_byte_s=first_byte_s)
            self._at(lasts_s, lambda: at_once(router.finish(end)))

        def fails(verdict: Verdict, name: str, pause_s: float = 0.0) -> None:
            if not attempt.may_retry:
                over(name, verdict, name)
                return
            end = End(attempt_id=attempt.id, verdict=verdict, name=name, retry_after_s=pause_s)
            self._call(router, began_s=began_s, tried=(*tried, end))

        kind = self._trouble_of(attempt)
        if kind == HANGS and patience_s < attempt.first_byte_s:
            self._at(patience_s, lambda: over(LEFT, Verdict.NOTHING, LEFT))
        elif kind == HANGS:
            self._at(attempt.first_byte_s, lambda: fails(Verdict.FAILED, TIMED_OUT))
        elif kind:
            self._at(takes_s, lambda: fails(*FAILURES[kind]))
        else:
            self._at(takes_s, lambda: over("", Verdict.GOOD, "success", takes_s))

    def _trouble_of(self, attempt: Attempt) -> str:
        trouble = self.trouble
        if trouble is None or attempt.target.account.id == "b" or self.source.random() >= trouble.share:
            return ""
        return "" if int((self.now_s - self._since_s) / trouble.flap_s) % 2 else trouble.kind

    def comes_back(self, *, within_s: float, per_s: float) -> bool:
        """Whether "a" gets its share again."""
        end_s = self.now_s + within_s
        while self.now_s < end_s:
            self.asked.clear()
            ends = self.play(None, seconds=12 / per_s, per_s=per_s)
            assert {word for word, _ in ends} <= {""}
            if self.asked["a"] > self.asked["b"] / 3:
                return True
        return False


def p99_s(ends: list[tuple[str, float]]) -> float:
    return sorted(took_s for _, took_s in ends)[int(len(ends) * 0.99)]


TROUBLES = {
    "hangs": Trouble(),
    "hangs, long streams": Trouble(lasts_s=5.0),
    "half of it hangs": Trouble(share=0.5),
    "one in ten hangs": Trouble(share=0.1),
    "hangs now and then": Trouble(flap_s=3.0),
    "500": Trouble(kind="500"),
    "half 500": Trouble(kind="500", share=0.5),
    "429": Trouble(kind="429"),
    "half 429": Trouble(kind="429", share=0.5),
    "refuses": Trouble(kind="refuses"),
    "refuses now and then": Trouble(kind="refuses", flap_s=3.0),
}


@pytest.mark.parametrize(("first_byte_s", "per_s"), [(1.0, 5), (1.0, 40), (5.0, 5), (60.0, 2)])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_the_trouble_no_caller_sees_it(
    tmp_path: Path, trouble: str, first_byte_s: float, per_s: float
) -> None:
    """No error, a tenth of an attempt's time to spare in the slowest hundredth, and the account comes back."""
    world = World(tmp_path, first_byte_s=first_byte_s, seed=7)
    healthy = world.play(None, seconds=60 / per_s, per_s=per_s)
    world.until(world.now_s + 1)
    seconds = max(12.0, 3 * first_byte_s)
    troubled = world.play(TROUBLES[trouble], seconds=seconds, per_s=per_s)
    world.trouble = None
    world.until(world.now_s + first_byte_s)
    assert (len(troubled), {word for word, _ in troubled}) == (int(seconds * per_s), {""})
    assert p99_s(troubled) - p99_s(healthy) < 0.9 * first_byte_s
    assert world.comes_back(within_s=40 + 3 * first_byte_s, per_s=per_s)


def test_an_account_whose_callers_leave_before_its_time_is_left_alone(tmp_path: Path) -> None:
    """No attempt of theirs ever times out: those that they left count as evidence, and few have to leave."""
    world = World(tmp_path, first_byte_s=60.0, seed=7)
    world.play(None, seconds=10, per_s=10)
    troubled = world.play(Trouble(patience_s=1.0), seconds=60, per_s=10)
    left = sum(word == LEFT for word, _ in troubled)
    assert 0 < left < 0.02 * len(troubled)
