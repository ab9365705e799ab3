"""Who a key belongs to and what it may do: at most one indexed look-up, and none for junk or what was just looked up.

Who tries wrong keys is refused before a look-up (`wrong_keys.py`).

Everything that can change without a look-up (time, plans of the config, the client's address) is judged anew for
every call; only the database's rows are kept, for under a second (`kept_keys.py`).

Concurrent calls for one key share one look-up. It runs in a task that the Authorizer owns and that survives callers
who give up, so that one impatient client doesn't fail the others; `close` ends what is left.
"""

import asyncio
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable

from chassis.errors import Code, TollbridgeError
from services.auth import api_keys
from services.auth.config import AuthConfig
from services.auth.kept_keys import TRUSTED_S, Holder, Kept, KeptKeys
from services.auth.limits import Limits, effective, own
from services.auth.spend_caps import SpendCap
from services.auth.wrong_keys import WrongKeys

LOOK_UP_TIMEOUT_S = 0.8
"""Callers get their 503 in under a second when the database is gone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The answer for a key that may go on."""

    customer_id: str
    key_id: str
    plan: str
    limits: Limits
    own_limits: Limits
    """Besides the others, where these are shared by all keys of the customer."""
    models: tuple[str, ...]
    spend_cap: SpendCap | None
    customer_spend_cap: SpendCap | None
    keep_ms: int
    """How long the answer may be used without asking again."""


class Authorizer:
    """Answers for keys. Belongs to one event loop."""

    def __init__(
        self,
        *,
        find: Callable[[list[bytes]], Awaitable[Holder | None]],
        peppers: api_keys.Peppers,
        config: Callable[[], AuthConfig],
        kept: KeptKeys,
        wrong: WrongKeys,
        clock_s: Callable[[], float] = time.monotonic,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._find = find
        self._peppers = peppers
        self._config = config
        self._kept = kept
        self._wrong = wrong
        self._clock_s = clock_s
        self._now_us = now_us
        self._running: dict[tuple[bytes, str], asyncio.Task[Kept | None]] = {}
        self.asked = 0
        self.looked_up = 0

    async def authorize(self, *, api_key: str, client_ip: str) -> Grant:
        """Raises INVALID_API_KEY, CUSTOMER_SUSPENDED, ADDRESS_NOT_ALLOWED, or UNAVAILABLE without a database.

        RATE_LIMIT_EXCEEDED is for an address that sent too many wrong keys, until it may try one again.
        """
        if not api_keys.is_well_formed(api_key):
            raise TollbridgeError(Code.INVALID_API_KEY, "The API key is not valid.")
        self.asked += 1
        digests = self._peppers.digests(api_key)
        kept = self._kept.get(digests[-1], now_s=self._clock_s()) or await self._look_up(digests, client_ip)
        if kept is None:
            raise TollbridgeError(Code.INVALID_API_KEY, "The API key is not valid.")
        return self._judge(kept, client_ip)

    async def close(self) -> None:
        """Ends look-ups that nobody waits for any more."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _judge(self, kept: Kept, client_ip: str) -> Grant:
        key, customer = kept.holder.key, kept.holder.customer
        whose = {"key_id": key.id}  # for counting who is refused; clients are not told
        now_us = self._now_us()
        if key.revoked_at_us:
            raise TollbridgeError(Code.INVALID_API_KEY, "The API key is not valid.", details=whose)
        if key.terms.is_over(now_us):
            raise TollbridgeError(Code.INVALID_API_KEY, "The API key has expired.", details=whose)
        if not customer.may_use:
            raise TollbridgeError(
                Code.CUSTOMER_SUSPENDED,
                f"The account of this API key is {customer.status.value}.",
                details={"status": customer.status.value, **whose},
            )
        if not key.terms.admits(client_ip):
            message = "The API key may not be used from this address."
            raise TollbridgeError(Code.ADDRESS_NOT_ALLOWED, message, details=whose)
        config = self._config()
        plan, overrides = config.limits_of(customer.plan), key.terms.overrides
        return Grant(
            customer_id=key.customer_id,
            key_id=key.id,
            plan=config.plan_id(customer.plan),
            limits=effective(plan=plan, overrides=overrides, may_raise=not key.made_by),
            own_limits=own(plan=plan, overrides=overrides),
            models=key.terms.models,
            spend_cap=key.terms.spend_cap,
            customer_spend_cap=customer.spend_cap,
            keep_ms=self._keep_ms(kept, now_us),
        )

    def _keep_ms(self, kept: Kept, now_us: int) -> int:
        left_ms = int((kept.true_at_s + TRUSTED_S - self._clock_s()) * 1000)
        expires_at_us = kept.holder.key.terms.expires_at_us
        if expires_at_us:
            left_ms = min(left_ms, (expires_at_us - now_us) // 1000)
        return max(0, min(1000, left_ms))

    async def _look_up(self, digests: list[bytes], client_ip: str) -> Kept | None:
        digest, now_s = digests[-1], self._clock_s()
        if self._wrong.is_wrong(digest, now_s=now_s):
            return None
        asker = self._wrong.asker_of(digest, client_ip)
        self._wrong.check(asker, now_s=now_s)
        name = (digest, asker)
        task = self._running.get(name)
        if task is None:
            task = asyncio.create_task(self._read(digests, asker), name="auth look-up")
            self._running[name] = task
            task.add_done_callback(functools.partial(self._ended, name))
        return await asyncio.shield(task)

    def _ended(self, name: tuple[bytes, str], task: asyncio.Task[Kept | None]) -> None:
        self._running.pop(name, None)
        if not task.cancelled():
            task.exception()  # its callers have it; if all of them left, nobody else needs to hear of it

    async def _read(self, digests: list[bytes], asker: str) -> Kept | None:
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT_S), self._wrong.place(asker, clock_s=self._clock_s):
                self.looked_up += 1
                started_at_s, generation = self._clock_s(), self._kept.generation
                holder = await self._find(digests)
                self._wrong.note(digests[-1], asker, is_good=holder is not None, now_s=self._clock_s())
        except TimeoutError:
            raise TollbridgeError(Code.UNAVAILABLE, "Keys can't be checked now.", retry_after_s=1) from None
        if holder is None:
            return None
        kept = Kept(holder, started_at_s)
        self._kept.put(digests[-1], kept, generation=generation)
        return kept
