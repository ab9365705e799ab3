"""The decision: which provider account takes an attempt, at which price; and what its end teaches.

Accounts without `slots` are decided on in memory alone. A limited account costs a part of a statement, and when all are
busy the request waits in its model's line, first come first served in this replica, for at most `slots.wait_s`.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog

from chassis.errors import Code, TollbridgeError
from pricing.prices import PriceVersion
from services.router.asked import Ask, End
from services.router.attempts import Attempt, AttemptBook, Page
from services.router.breaker import PROBE_MARGIN_S, Breaker, Standing, Verdict
from services.router.config import RouterConfig
from services.router.patience import Patience
from services.router.pool import Target, ranked, targets
from services.router.registry import EMPTY, Model, Registry, Route
from services.router.retry_budget import RetryBudget
from services.router.slot_desk import SlotDesk
from services.router.waiting_room import WaitingRoom, all_busy

MAX_ATTEMPTS = 5
MAX_TRIED = 32
ANSWER_TIME_S = 1.0
"""What is kept of a caller's time for the answer to reach them."""
MAX_RETRY_AFTER_S = 60.0
TEND_EVERY_S = 10.0
TIMED_OUT = "timed_out"
"""An end's name: its caller has waited in vain."""


class PriceShelf(Protocol):
    """Every price version there ever was."""

    async def price(self, price_id: str) -> PriceVersion:
        """Raises NOT_FOUND, UNAVAILABLE."""


class Decider:
    """Decides by the config in use, and remembers what is needed to decide the same when asked again."""

    def __init__(
        self,
        *,
        desk: SlotDesk,
        shelf: PriceShelf,
        book: AttemptBook,
        breaker: Breaker,
        clock: Callable[[], float],
        source: random.Random,
    ) -> None:
        self._desk, self._shelf, self._book, self._breaker = desk, shelf, book, breaker
        self._clock, self._source = clock, source
        self._config: RouterConfig | None = None
        self._room, self._budget, self._patience = WaitingRoom(clock=clock), RetryBudget(), Patience()
        self._log = structlog.get_logger()

    @property
    def registry(self) -> Registry:
        """What the config in use says. Raises UNAVAILABLE before the first."""
        return self._in_use().registry

    @property
    def known(self) -> Registry:
        """The same, but an empty one before the first."""
        return EMPTY if self._config is None else self._config.registry

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot in this replica."""
        return self._room.waiting

    def use(self, config: RouterConfig) -> None:
        """Decides by this config from now on; running attempts keep what they were told."""
        former = self._config.registry.accounts if self._config else {}
        accounts = config.registry.accounts
        for account_id, account in former.items():
            if account_id in accounts and accounts[account_id].api_key != account.api_key:
                self._breaker.forget(account_id)
        self._breaker.forget_all_but(frozenset(accounts))
        self._book.suspicion.forget_all_but(frozenset(accounts))
        self._patience.forget_all_but(frozenset(accounts))
        self._config = config

    async def decide(self, ask: Ask) -> Attempt:
        """The route of an attempt; asked again with its id, the same. Ends the attempts in `ask.tried`.

        Raises MODEL_NOT_FOUND, PROVIDER_NOT_CONFIGURED, PROVIDER_ERROR when every account was tried, OVERLOADED.
        """
        if len(ask.tried) > MAX_TRIED:
            raise TollbridgeError(Code.INVALID_REQUEST, f"At most {MAX_TRIED} attempts.", details={"param": "tried"})
        excluded = await self._end_former(ask.tried)
        running = self._book.find(ask.attempt_id)
        if running is not None:
            return running
        model = self._model(ask.model, ask.operation)
        price = await self._shelf.price(ask.price_id) if ask.price_id else None
        candidates = [
            target
            for target in targets(model)
            if target.account.id not in excluded and ask.account_id in ("", target.account.id)
        ]
        if not candidates or len(ask.tried) >= MAX_ATTEMPTS:
            raise _all_tried(ask.tried)
        target, holds_slot = await self._seat(ask, model, candidates)
        twin = self._book.find(ask.attempt_id)
        if twin is not None:
            return twin  # asked twice at once: both found the same slot
        now_s = self._clock()
        others = [other for other in candidates if other.account.id != target.account.id]
        attempt = Attempt(
            id=ask.attempt_id,
            request_id=ask.request_id,
            spender=ask.spender,
            model=model,
            target=target,
            price=price or target.route.price,
            may_retry=len(ask.tried) + 1 < MAX_ATTEMPTS and any(self._is_ready(other, now_s) for other in others),
            holds_slot=holds_slot,
            started_s=now_s,
            first_byte_s=self._first_byte_s(ask, model, target, others, now_s),
        )
        self._book.begin(attempt)
        self._budget.count(now_s=now_s, is_retry=bool(ask.tried) and self._is_failing(target, now_s))
        return attempt

    def quote(self, *, model: str, operation: str) -> tuple[Model, Sequence[Route]]:
        """The model and its routes that could serve it: the likeliest first, those whose accounts all rest last.

        Takes nothing and remembers nothing. Raises MODEL_NOT_FOUND, PROVIDER_NOT_CONFIGURED, INVALID_REQUEST.
        """
        found, now_s = self._model(model, operation), self._clock()

        def rank(route: Route) -> tuple[bool, int]:
            seats = [Target(route=route, account=account) for account in route.provider.accounts]
            return not any(self._is_ready(seat, now_s) for seat in seats), route.priority

        return found, sorted((route for route in found.routes if route.provider.accounts), key=rank)

    async def finish(self, end: End) -> None:
        """Ends an attempt that no other follows. Raises UNAVAILABLE when its slot couldn't be given back now."""
        await self._end((end,))

    async def state(self, page: Page) -> None:
        """A page of a spender's statement of its running attempts. Raises UNAVAILABLE."""
        self._book.keep_only(page)
        await self._desk.state(page)

    async def tend(self) -> None:
        """Keeps the loads true until cancelled, whatever ends were never told to this replica."""
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Drops attempts that are over by what their spenders told any replica, or that can no longer run."""
        self._book.drop_overdue(now_s=self._clock())
        spenders = self._book.spenders()
        if not spenders:
            return
        try:
            stated = await self._desk.stated(spenders)
        except TollbridgeError as error:
            self._log.warning("statements_not_read", code=error.code.value)
            return
        for page in stated.pages:
            self._book.keep_only(page)
        self._book.drop_silent(stated.silent, now_s=self._clock())

    # Choosing

    def _model(self, name: str, operation: str) -> Model:
        model = self.registry.find(name)
        if model is None:
            raise TollbridgeError(
                Code.MODEL_NOT_FOUND, f"The model {name[:200]!r} does not exist.", details={"param": "model"}
            )
        if operation and operation != model.category:
            message = f"The model {model.id!r} is for {model.category}, not for {operation}."
            raise TollbridgeError(Code.MODEL_NOT_FOUND, message, details={"param": "model"})
        if not model.is_configured:
            raise TollbridgeError(Code.PROVIDER_NOT_CONFIGURED, f"The model {model.id!r} has no provider.")
        return model

    async def _seat(self, ask: Ask, model: Model, candidates: Sequence[Target]) -> tuple[Target, bool]:
        """A candidate and whether a slot of it was taken; waits in line while all are busy. Raises OVERLOADED."""
        if not self._room.has_line(model.config_id):
            seated = await self._try_each(ask, candidates)
            if seated is not None:
                return seated
        patience_s = max(0.0, min(self._in_use().slot_wait_s, ask.patience_s - ANSWER_TIME_S))
        behind_s = self._room.wait_s(model.config_id) - patience_s
        if self._room.is_full or behind_s > 0:
            raise all_busy(model.id, after_s=behind_s)
        account_ids = frozenset(target.account.id for target in candidates)
        try:
            async with asyncio.timeout(patience_s):
                async with self._room.at_the_head(model.config_id, account_ids) as head:
                    while True:  # bounded by the timeout around it
                        seated = await self._try_each(ask, candidates)
                        if seated is not None:
                            return seated
                        await head.look_again()
        except TimeoutError:
            # the time may have run out between the commit and our learning of it
            await self._release_if_possible((ask.attempt_id,))
            after_s = self._room.wait_s(model.config_id) - patience_s
            raise all_busy(model.id, after_s=after_s) from None

    async def _try_each(self, ask: Ask, candidates: Sequence[Target]) -> tuple[Target, bool] | None:
        for target in self._in_order(ask, candidates):
            account, model = target.account, target.route.provider_model
            self._breaker.begin(
                account.id,
                attempt_id=ask.attempt_id,
                now_s=self._clock(),
                first_byte_s=target.route.provider.timeouts.until_first_byte_s,
                model=model,
            )
            if account.slots is None:
                return target, False
            account_id = None
            try:
                account_id = await self._desk.take(
                    attempt_id=ask.attempt_id,
                    request_id=ask.request_id,
                    account_id=account.id,
                    spender=ask.spender,
                )
            finally:  # also when nobody waits any more: it would keep others from probing
                if account_id != account.id:
                    self._breaker.withdraw(account.id, attempt_id=ask.attempt_id, model=model)
            if account_id == account.id:
                return target, True
            if account_id is not None:
                return await self._where_it_sits(ask, account_id, candidates), True
        return None

    def _in_order(self, ask: Ask, candidates: Sequence[Target]) -> Sequence[Target]:
        """Who may be asked now, best first; last those of whom we are waiting to hear. Raises when there is none.

        Where no other has room, they are asked all the same: that may fail, and to refuse certainly does.
        """
        now_s = self._clock()
        ready = [target for target in candidates if self._is_ready(target, now_s)]
        if not ready:
            raise self._all_rest(candidates, now_s)
        if ask.tried and not self._budget.has_room(now_s=now_s):
            ready = [target for target in ready if not self._is_failing(target, now_s)]
        if not ready:
            raise _all_tried(ask.tried)
        order = ranked(ready, usable=lambda _: True, load_of=self._book.load_of, source=self._source)
        return sorted(order, key=lambda target: self._is_awaited(target, now_s))

    def _is_awaited(self, target: Target, now_s: float) -> bool:
        """Whether the account is being probed, or has gone quiet."""
        account_id, first_byte_s = target.account.id, target.route.provider.timeouts.until_first_byte_s + PROBE_MARGIN_S
        standing = self._breaker.standing(account_id, now_s=now_s, model=target.route.provider_model)
        is_quiet = self._book.suspicion.is_quiet(account_id, now_s=now_s, first_byte_s=first_byte_s)
        return standing is Standing.PROBED or is_quiet

    def _is_failing(self, target: Target, now_s: float) -> bool:
        return self._breaker.is_failing(target.account.id, now_s=now_s, model=target.route.provider_model)

    def _first_byte_s(self, ask: Ask, model: Model, target: Target, others: Sequence[Target], now_s: float) -> float:
        account_id = target.account.id
        spare = len(ask.tried) + 1 < MAX_ATTEMPTS and not all(self._is_failing(other, now_s) for other in others)
        return self._patience.first_byte_s(
            account_id,
            target.route.provider.timeouts,
            category=model.category,
            spare=spare,
            share=self._breaker.share(account_id, attempt_id=ask.attempt_id, model=target.route.provider_model),
        )

    async def _where_it_sits(self, ask: Ask, account_id: str, candidates: Sequence[Target]) -> Target:
        """The target of a slot that another replica has taken for this very attempt."""
        for target in candidates:
            if target.account.id == account_id:
                return target
        await self._release_if_possible((ask.attempt_id,))
        raise TollbridgeError(Code.UNAVAILABLE, "the attempt's account is gone", retry_after_s=1)

    def _is_ready(self, target: Target, now_s: float) -> bool:
        return self._rests_for_s(target, now_s) <= 0

    def _rests_for_s(self, target: Target, now_s: float) -> float:
        return self._breaker.rests_for_s(target.account.id, now_s=now_s, model=target.route.provider_model)

    def _all_rest(self, candidates: Sequence[Target], now_s: float) -> TollbridgeError:
        soonest_s = min(self._rests_for_s(target, now_s) for target in candidates)
        return TollbridgeError(
            Code.OVERLOADED,
            "Every provider account of this model is over its limit or failing.",
            details={"reason": "cooled"},
            retry_after_s=min(max(soonest_s, 1.0), MAX_RETRY_AFTER_S),
        )

    # Ending

    async def _end_former(self, tried: Sequence[End]) -> frozenset[str]:
        """Ends them, as far as the database lets us now; returns the accounts they had, as far as known."""
        try:
            await self._end(tried)
        except TollbridgeError as error:
            self._log.warning("slots_not_released", attempts=len(tried), code=error.code.value)
        return frozenset(self._book.ended_at(end.attempt_id) or end.account_id for end in tried)

    async def _end(self, ends: Sequence[End]) -> None:
        """Each is learnt from once in this replica, and gives back its slot."""
        now_s = self._clock()
        open_slots = [end for end in ends if self._end_here(end, now_s=now_s)]
        if not open_slots:
            return
        freed = await self._desk.release([end.attempt_id for end in open_slots])
        self._room.freed(freed.values())
        for end in open_slots:
            known, freed_at = self._book.ended_at(end.attempt_id), freed.get(end.attempt_id)
            if known is None and freed_at is not None:  # of another replica, and its spender didn't name the account
                self._learn(freed_at, end, started_s=now_s - end.age_s, now_s=now_s)
            account_there = known or freed_at
            if account_there is not None:
                self._book.remember_ended(end.attempt_id, account_there, owes_slot=False)

    def _end_here(self, end: End, *, now_s: float) -> bool:
        """Learns from it, unless that was done; says whether it may still hold a slot."""
        attempt = self._book.end(end.attempt_id, left_s=now_s if end.is_left else None)
        if attempt is not None:
            account_id, started_s, holds_slot = attempt.target.account.id, attempt.started_s, attempt.holds_slot
        elif self._book.ended_at(end.attempt_id) is not None or end.account_id not in self.registry.accounts:
            return bool(self.registry.slots) and not self._book.is_settled(end.attempt_id)
        else:  # another replica has decided on it
            account_id, started_s, holds_slot = end.account_id, now_s - end.age_s, bool(self.registry.slots)
        model = attempt.target.route.provider_model if attempt is not None else ""
        if attempt is not None and end.verdict is Verdict.GOOD:
            self._book.suspicion.succeeded(account_id, started_s=started_s, now_s=now_s)
        if end.first_byte_s:
            self._patience.answered(account_id, first_byte_s=end.first_byte_s)
        self._learn(account_id, end, started_s=started_s, now_s=now_s, model=model)
        self._book.remember_ended(end.attempt_id, account_id, owes_slot=holds_slot)
        return holds_slot

    def _learn(self, account_id: str, end: End, *, started_s: float, now_s: float, model: str = "") -> None:
        """A sandbox fails only when its caller scripts it to, which must not switch it off for everybody else."""
        if account_id in self.registry.sandboxed:
            return
        self._breaker.learn(
            account_id,
            end.verdict,
            started_s=started_s,
            now_s=now_s,
            retry_after_s=end.retry_after_s,
            model=model,
            attempt_id=end.attempt_id,
            waited_s=min(now_s - started_s, self.registry.first_byte_s(account_id)) if end.name == TIMED_OUT else 0.0,
        )

    async def _release_if_possible(self, attempt_ids: Collection[str]) -> None:
        try:
            freed = await self._desk.release(attempt_ids)
            self._room.freed(freed.values())
        except TollbridgeError as error:
            self._log.warning("slots_not_released", attempts=len(attempt_ids), code=error.code.value)

    def _in_use(self) -> RouterConfig:
        if self._config is None:
            raise TollbridgeError(Code.UNAVAILABLE, "the configuration is not loaded yet", retry_after_s=1)
        return self._config


def _all_tried(tried: Sequence[End]) -> TollbridgeError:
    last = tried[-1].name if tried else "none"
    return TollbridgeError(
        Code.PROVIDER_ERROR,
        "Every provider account of this model was tried and failed.",
        details={"last_outcome": last, "attempts": str(len(tried))},
    )
