"""The gate of one subject: requests draw from its allotment, or wait in a row until auth has answered.

One statement is under way at a time and asks for all who wait, so that however many come, auth has one question to
answer. Who can't be served then is refused at once. Asked again, once, is only for what will be there in a moment, and
for a permit, or tokens: the client may have ended another request on a replica whose word of it is still on its way.
"""

import asyncio
import collections
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from chassis.errors import Code, TollbridgeError
from services.edge.limits.allotment import Allotment, Draw
from services.edge.limits.share import Share
from services.edge.limits.terms import Kind, LeaseOfKind, Statement, Terms

MOST_WAITING = 1000
PATIENCE_S = 0.1
"""How long a request waits for what may be on its way back from another replica."""
SOON_S = 0.75
"""Who would be told to come again so soon waits instead. `Retry-After` says 60 s at most, and a unit may count for that
and two buckets: who comes again when told finds it a moment later."""
REMEMBER_S = 0.25
"""How long a refusal is believed, so that rejecting costs no question."""
IDLE_S = 5.0
NEVER_S = 60.0
"""What a client is told that asks for more than can ever be had."""
_WORDS = {
    Kind.REQUESTS: "requests per minute",
    Kind.TOKENS: "tokens per minute",
    Kind.CONCURRENT: "requests at once",
}


class Keeper(Protocol):
    """What is asked of auth (`limit_owner.LimitOwner`)."""

    async def lease_limits(self, statement: Statement) -> tuple[Mapping[Kind, LeaseOfKind], float]:
        """The leases by kind, and for how many seconds they may be used without another answer."""

    async def state_limits(self, subjects: list[str], *, as_of: int) -> float:
        """A full statement; seconds until the next is due."""

    async def end(self, *, as_of: int) -> None:
        """The last words: nothing is held any more."""


class Admitted:
    """A request that was let in. Its owner calls `begin` before a provider is called, and `end`, however it ends.

    `beside` is what let it in at another gate: it begins and ends with it.
    """

    __slots__ = ("_draw", "_gate", "beside")

    def __init__(self, gate: "Gate", draw: Draw) -> None:
        self._gate = gate
        self._draw = draw
        self.beside: Admitted | None = None

    def begin(self) -> None:
        """It counts from now on. The first call counts."""
        if self.beside is not None:
            self.beside.begin()
        self._gate.allotment.begin(self._draw, now_s=self._gate.clock())

    def end(self, *, tokens: int = 0) -> None:
        """It has used so many tokens; if it never began, nothing. The first call counts."""
        if self.beside is not None:
            self.beside.end(tokens=tokens)
        if not self._draw.ended:
            self._gate.ended(self._draw, tokens=tokens)


class _Waiter:
    __slots__ = ("future", "patient_until_s", "tokens")

    def __init__(self, tokens: int, future: "asyncio.Future[Draw]") -> None:
        self.tokens = tokens
        self.future = future
        self.patient_until_s = 0.0


class Gate:
    """One subject's. It owns the task that talks to auth; `tick` is called every second."""

    def __init__(
        self, *, subject: str, keeper: Keeper, next_number: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self.allotment = Allotment(subject)
        self.clock = clock
        self._keeper = keeper
        self._next_number = next_number
        self._waiting: collections.deque[_Waiter] = collections.deque()
        self._task: asyncio.Task[None] | None = None
        self._has_news = False
        self._used_at_s = clock()
        self._log = structlog.get_logger()

    async def admit(self, terms: Terms, tokens: int) -> Admitted:
        """Lets one request in. Raises RATE_LIMIT_EXCEEDED, CONCURRENCY_LIMIT_EXCEEDED, OVERLOADED, UNAVAILABLE."""
        now_s = self._used_at_s = self.clock()
        self.allotment.limit_by(terms)
        most = terms.limits.get(Kind.TOKENS)
        if most is not None and tokens > most:
            raise _too_large(tokens, most)
        if not self._waiting:
            draw = self.allotment.draw(tokens, now_s=now_s)
            if draw is not None:
                return Admitted(self, draw)
        self.check(tokens)
        if len(self._waiting) >= MOST_WAITING:
            raise TollbridgeError(Code.OVERLOADED, "Too many requests wait for this limit.", retry_after_s=1)
        waiter = _Waiter(tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._talk_soon()
        try:
            return Admitted(self, await waiter.future)
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self.ended(waiter.future.result(), tokens=0)
            raise

    def check(self, tokens: int) -> None:
        """Raises what another request was refused with a moment ago, where this one would be too."""
        refusal = self.allotment.refusal(tokens, now_s=self.clock())
        if refusal is not None:
            raise self._refused(refusal[0], refusal[1])

    def ended(self, draw: Draw, *, tokens: int) -> None:
        """A request has ended, or did not come to its provider."""
        now_s = self._used_at_s = self.clock()
        self.allotment.end(draw, tokens=tokens, now_s=now_s)
        if self._waiting or self.allotment.has_much_to_return(now_s):
            self._has_news = True
            self._talk_soon()

    async def look(self, *, fresh_s: float, within_s: float) -> None:
        """Sees to it that what is known is no older, if auth answers in time."""
        now_s = self._used_at_s = self.clock()
        if now_s - self.allotment.told_at_s <= fresh_s:
            return
        self._has_news = True
        await asyncio.wait([self._talk_soon()], timeout=within_s)

    def tick(self) -> bool:
        """Tells auth what it has not heard; whether this gate is still of use."""
        now_s = self.clock()
        self.allotment.lapse(now_s)
        self._has_news = self._has_news or self.allotment.has_news(now_s)
        if self._has_news or self._waiting:
            self._talk_soon()
        is_busy = self._waiting or (self._task is not None and not self._task.done())
        return bool(is_busy) or now_s < self._used_at_s + IDLE_S or not self.allotment.is_settled

    async def tell(self) -> None:
        """Tells auth all that it has not heard, and gives back what is free, at the end."""
        self.allotment.retire()
        if self.allotment.has_news(self.clock()):
            self._has_news = True
            await self._talk_soon()

    # The conversation with auth.

    def _talk_soon(self) -> asyncio.Task[None]:
        """The task that talks; until it runs, whatever else happens in this turn of the loop is told too."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._talk(), name="lease-limits")
        return self._task

    async def _talk(self) -> None:
        """Goes on until nobody waits but for the time to ask again, and there is nothing to tell."""
        while True:
            self._serve(was_asked=False)
            if not self._has_news and not self._asks():
                return
            self._has_news = False
            statement = self.allotment.statement(number=self._next_number(), waiting=self._needs(), now_s=self.clock())
            try:
                leases, ttl_s = await self._keeper.lease_limits(statement)
            except TollbridgeError as error:
                self._log.info("limits_not_leased", subject=statement.subject, code=error.code.value)
                self._fail(error)
                return
            except Exception:  # noqa: BLE001  logged whole; who waits would wait for ever
                self._log.exception("limits_not_leased", subject=statement.subject)
                self._fail(TollbridgeError(Code.INTERNAL, "Something went wrong on our side."))
                return
            self.allotment.adopt(leases, ttl_s=ttl_s, now_s=self.clock())
            self._serve(was_asked=True)
            if not self._waiting and self.allotment.has_much_to_return(self.clock()):
                self._has_news = True  # of one kind there was enough, of another not: others may miss the one

    def _asks(self) -> bool:
        """Whether somebody waits for an answer, and not for the time to ask again."""
        now_s = self.clock()
        return any(waiter.patient_until_s <= now_s for waiter in self._waiting)

    def _needs(self) -> dict[Kind, int]:
        """What all who wait need."""
        needs = {kind: len(self._waiting) for kind in (Kind.REQUESTS, Kind.CONCURRENT)}
        return {**needs, Kind.TOKENS: sum(waiter.tokens for waiter in self._waiting)}

    def _serve(self, *, was_asked: bool) -> None:
        """First come, first served. Once auth was asked, who can't be served is refused."""
        now_s, left = self.clock(), collections.deque[_Waiter]()
        while self._waiting:
            waiter = self._waiting.popleft()
            if waiter.future.done():  # nobody waits for it any more
                continue
            draw = self.allotment.draw(waiter.tokens, now_s=now_s)
            if draw is not None:
                waiter.future.set_result(draw)
            elif was_asked:
                self._refuse_or_keep(waiter, left, now_s=now_s)
            else:
                left.append(waiter)
                break
        left.extend(self._waiting)
        self._waiting = left

    def _refuse_or_keep(self, waiter: _Waiter, left: collections.deque[_Waiter], *, now_s: float) -> None:
        lacking = [share for share in self.allotment.lacking(waiter.tokens) if share.is_short]
        short = min(lacking, key=lambda share: share.kind, default=None)
        if short is None:  # it came after auth was asked
            left.append(waiter)
            return
        patience_s = _patience_s(short)
        if patience_s and not waiter.patient_until_s:
            waiter.patient_until_s = now_s + patience_s
            asyncio.get_running_loop().call_later(patience_s + 0.001, self._talk_soon)  # never early
        if now_s < waiter.patient_until_s:
            left.append(waiter)
            return
        if short.kind is not Kind.CONCURRENT:
            units = waiter.tokens if short.kind is Kind.TOKENS else 1
            short.refuse(units, now_s=now_s, remember_s=REMEMBER_S)
        waiter.future.set_exception(self._refused(short.kind, short.retry_after_s))

    def _fail(self, error: TollbridgeError) -> None:
        waiting, self._waiting = self._waiting, collections.deque()
        for waiter in waiting:
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def _refused(self, kind: Kind, retry_after_s: float) -> TollbridgeError:
        code = Code.CONCURRENCY_LIMIT_EXCEEDED if kind is Kind.CONCURRENT else Code.RATE_LIMIT_EXCEEDED
        limit = self.allotment.limit_of(kind)
        return TollbridgeError(
            code,
            f"The limit of {limit} {_WORDS[kind]} is reached. Please try again later.",
            retry_after_s=retry_after_s,
        )


def _patience_s(short: Share) -> float:
    """How long it is worth to wait for what is short."""
    least_s = 0.0 if short.kind is Kind.REQUESTS else PATIENCE_S
    is_soon = short.kind is not Kind.CONCURRENT and short.retry_after_s <= SOON_S
    return max(least_s, short.retry_after_s) if is_soon else least_s


def _too_large(tokens: int, most: int) -> TollbridgeError:
    message = f"This request may take {tokens} tokens, which is more than the limit of {most} tokens per minute."
    return TollbridgeError(Code.RATE_LIMIT_EXCEEDED, message, details={"should_retry": "false"}, retry_after_s=NEVER_S)
