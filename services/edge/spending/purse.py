"""The purse: credit that billing has leased to this incarnation, and what its requests draw from it.

A request of a busy customer is drawn from a lease for many in memory; such leases are asked for by the one request that
found too little in them, or before that, in the background. Where credit is short, and for keys under a cap, a request
gets a lease of its own, which ends with its event. A lease is drawn from only as long as billing is sure to keep it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec
import structlog

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.owners import Granted
from services.edge.spending.lease_book import RETRY_STATEMENT_S, LeaseBook, LeaseFigures, Listener
from services.edge.spending.spend_caps import SpendCap
from services.edge.spending.wallet import Lease, Wallet
from tollbridge.billing.v1 import billing_pb2

TIDY_EVERY_S = 1.0
REFILL_LIMIT = 256
"""Background refills under way at once, one for each customer at most."""
ROUNDS = 3
ROUND_S = 0.1
"""How often and how long a request waits for the lease that another one is asking for, before it asks for itself."""
_LASTING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_UNSURE = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})
"""After these billing may grant the lease all the same."""


class Lender(Listener, Protocol):
    """What the purse asks of billing (`owners.BillingOwner`)."""

    async def grant_lease(
        self,
        *,
        hold_id: str,
        customer_id: str,
        request_id: str,
        amount_nano_usd: int,
        least_nano_usd: int,
        caps: Sequence[SpendCap],
        replaces_hold_id: str = "",
        wish_nano_usd: int = 0,
        spare: bool = False,
        traceparent: str = "",
    ) -> Granted: ...


class Draw(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """What one request may cost at most, in nano-USD, and the hold that covers it.

    `closes_hold`: the hold is for this request alone and ends with its event.
    """

    hold_id: str
    amount_nano_usd: int
    closes_hold: bool = True


class _Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of billing."""

    customer_id: str
    request_id: str
    amount_nano_usd: int
    least_nano_usd: int = 0
    caps: Sequence[SpendCap] = ()
    spare: bool = False
    traceparent: str = ""


def lasting_clock() -> float:
    """Seconds since some moment, the machine's sleep among them: macOS, without CLOCK_BOOTTIME, counts sleep anyway."""
    return time.clock_gettime(_LASTING)


class Purse:
    """One incarnation's leases. Its owner runs `run()` as a task and calls `drain()` before that task is cancelled.

    `clock` counts on while the machine sleeps, as billing's does.
    """

    def __init__(
        self,
        *,
        billing: Lender,
        spender: UUID,
        clock: Callable[[], float] = lasting_clock,
    ) -> None:
        self._billing = billing
        self._spender = spender
        self._clock = clock
        self._book = LeaseBook(billing=billing, clock=clock)
        self._asking: dict[str, asyncio.Future[TollbridgeError | None]] = {}
        self._running: set[Draw] = set()
        self._refills: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    @property
    def spender(self) -> UUID:
        """The incarnation that all draws belong to."""
        return self._spender

    @property
    def open_count(self) -> int:
        """Draws of running requests."""
        return len(self._running) + self._book.asked_count

    @property
    def figures(self) -> LeaseFigures:
        """What is leased, for the metrics."""
        return self._book.figures

    async def draw(
        self,
        *,
        customer_id: str,
        request_id: str,
        worst_case_nano_usd: int,
        least_nano_usd: int = 0,
        caps: Sequence[SpendCap] = (),
        replaces: Draw | None = None,
        traceparent: str = "",
    ) -> Draw:
        """Holds `worst_case`, or with `least` > 0 whatever is affordable between the two.

        `replaces`, an earlier draw of the same request, ends as this one begins, so that it is never held twice.

        The draw belongs to the caller, who ends it by `settled` or `give_back`. Raises INSUFFICIENT_CREDITS,
        SPEND_CAP_REACHED, BALANCE_RESERVED, UNAVAILABLE; cancelled or failed, nothing stays held.
        """
        if replaces is not None and not replaces.closes_hold:
            self.give_back(replaces)  # what it had is free in its lease, for this draw or to be recalled for it
            replaces = None
        is_busy, wallet, now_s = False, self._book.wallet(customer_id), self._clock()
        if not caps:
            is_busy = wallet.need(worst_case_nano_usd, now_s=now_s)
            drawn = self._shared(wallet, customer_id, worst_case_nano_usd, now_s=now_s)
            if drawn is not None:
                return drawn
        need = _Need(
            customer_id=customer_id,
            request_id=request_id,
            amount_nano_usd=worst_case_nano_usd,
            least_nano_usd=least_nano_usd,
            caps=caps,
            traceparent=traceparent,
        )
        if not is_busy:
            return await self._ask(need, replaces=replaces)
        drawn = await self._awaited(wallet, need, now_s=now_s)
        if drawn is not None:
            return drawn
        wish = 0 if customer_id in self._asking else wallet.wish(worst_case_nano_usd, now_s=self._clock())
        return await self._ask(need, replaces=replaces, wish_nano_usd=wish)

    def settled(self, draw: Draw, *, spent_nano_usd: int) -> None:
        """The request ended and its event is in the spool; listed as spent until `confirmed`. The first end counts."""
        lease = self._end(draw)
        if lease is not None:
            lease.settle(draw.amount_nano_usd, spent_nano_usd=spent_nano_usd)
            self._book.end_if_over(lease)

    def confirmed(self, hold_id: str, charge_nano_usd: int, set_aside: bool) -> None:
        """Billing has the event of a request that was drawn from this hold, and its charge, or has set them aside."""
        lease = self._book.get(hold_id)
        if lease is None:
            return
        if not lease.shared:
            self._book.forget(lease)
            return
        lease.confirm(charge_nano_usd)
        lease.set_aside = lease.set_aside or set_aside
        self._book.end_if_over(lease)

    def give_back(self, draw: Draw) -> None:
        """Nothing was or will be spent of it. Returns at once; the purse owns the call that tells billing."""
        lease = self._end(draw)
        if lease is None:
            return
        lease.settle(draw.amount_nano_usd, spent_nano_usd=0)
        if draw.closes_hold:
            self._book.end(lease)
        else:
            self._book.end_if_over(lease)

    async def run(self) -> None:
        """States all leases, and gives back those that are idle, until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = 0.0
        while True:
            if loop.time() >= due_s:
                due_s = loop.time() + await self.state()
            else:
                await self._book.tidy()
            await asyncio.sleep(max(0.0, min(TIDY_EVERY_S, due_s - loop.time())))

    async def state(self) -> float:
        """One full statement; returns the seconds until the next. An owner that is down is asked again soon."""
        return await self._book.state()

    async def on_recall(self, data: bytes) -> None:
        """Credit is short: gives back what is free of these customers' leases (`CreditRecall`)."""
        await self._book.recall(billing_pb2.CreditRecall.FromString(data).customer_ids)

    async def drain(self) -> None:
        """The last words of this incarnation: everything goes back but what is open or unconfirmed."""
        if self._refills:
            _, late = await asyncio.wait(self._refills, timeout=RETRY_STATEMENT_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        await self._book.drain()

    # Drawing.

    def _shared(self, wallet: Wallet, customer_id: str, amount_nano_usd: int, *, now_s: float) -> Draw | None:
        """A draw from a lease for many, as most are; None when none has so much."""
        lease = wallet.draw(amount_nano_usd, now_s=now_s)
        if lease is None:
            return None
        if wallet.is_low(now_s):
            self._refill_early(wallet, customer_id, amount_nano_usd, now_s=now_s)
        draw = Draw(hold_id=lease.hold_id, amount_nano_usd=amount_nano_usd, closes_hold=False)
        self._running.add(draw)
        return draw

    async def _awaited(self, wallet: Wallet, need: _Need, *, now_s: float) -> Draw | None:
        """A draw from the lease that another asks for; None when the request has to ask itself. Raises UNAVAILABLE."""
        for _ in range(ROUNDS):
            asking = self._asking.get(need.customer_id)
            if asking is None or wallet.is_quiet(now_s):
                return None
            done, _pending = await asyncio.wait([asking], timeout=ROUND_S)
            if not done:
                return None
            if (error := asking.result()) is not None:
                raise error
            now_s = self._clock()
            drawn = self._shared(wallet, need.customer_id, need.amount_nano_usd, now_s=now_s)
            if drawn is not None:
                return drawn
        return None

    async def _ask(self, need: _Need, *, replaces: Draw | None, wish_nano_usd: int = 0) -> Draw:
        """A draw from a lease that billing is asked for, of this request alone unless more was wished and granted."""
        lease, granted = await self._lease(need, replaces=replaces, wish_nano_usd=wish_nano_usd)
        if replaces is not None:
            self._running.discard(replaces)
            if (old := self._book.get(replaces.hold_id)) is not None:
                self._book.forget(old)
        lease.amount_nano_usd = granted
        if granted > need.amount_nano_usd:
            self._share(lease)
            return self._drawn(lease, need.amount_nano_usd)
        if wish_nano_usd:
            self._be_quiet(need)
        lease.open_nano_usd = granted
        return self._drawn(lease, granted)

    def _refill_early(self, wallet: Wallet, customer_id: str, amount_nano_usd: int, *, now_s: float) -> None:
        """Asks for more in the background, as it will soon be needed. The purse owns the task."""
        if customer_id in self._asking or len(self._refills) >= REFILL_LIMIT:
            return
        wish = wallet.wish(amount_nano_usd, now_s=now_s)
        spare = _Need(customer_id=customer_id, request_id="", amount_nano_usd=amount_nano_usd, spare=True)
        # Named at once, so that requests of this turn of the loop find it, and not only those after it.
        asking = self._asking[customer_id] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._refill(spare, wish, asking), name="lease-refill")
        self._refills.add(task)
        task.add_done_callback(self._refills.discard)

    async def _refill(self, need: _Need, wish_nano_usd: int, asking: asyncio.Future[TollbridgeError | None]) -> None:
        try:
            lease, granted = await self._lease(need, replaces=None, wish_nano_usd=wish_nano_usd, asking=asking)
        except TollbridgeError as error:
            self._log.info("lease_refill_refused", customer_id=need.customer_id, code=error.code.value)
            return
        lease.amount_nano_usd, lease.open_nano_usd = granted, 0
        self._share(lease)

    async def _lease(
        self,
        need: _Need,
        *,
        replaces: Draw | None,
        wish_nano_usd: int,
        asking: asyncio.Future[TollbridgeError | None] | None = None,
    ) -> tuple[Lease, int]:
        """The lease that billing grants, and how much; others wait meanwhile for one that is to be shared.

        Who is woken then runs only after the caller has come to its next wait, so the lease is there.
        """
        hold_id, asked_at_s = str(uuid7()), self._clock()
        failed: TollbridgeError | None = None
        lease = Lease(
            hold_id=hold_id,
            customer_id=need.customer_id,
            amount_nano_usd=need.amount_nano_usd,
            open_nano_usd=need.amount_nano_usd,
            asked_beyond_nano_usd=max(0, wish_nano_usd - need.amount_nano_usd),
        )
        if wish_nano_usd and asking is None:
            asking = self._asking[need.customer_id] = asyncio.get_running_loop().create_future()
        self._book.ask(lease, early=need.spare)
        try:
            granted = await self._billing.grant_lease(
                hold_id=hold_id,
                customer_id=need.customer_id,
                request_id=need.request_id,
                amount_nano_usd=need.amount_nano_usd,
                least_nano_usd=need.least_nano_usd,
                caps=need.caps,
                replaces_hold_id=replaces.hold_id if replaces is not None else "",
                wish_nano_usd=wish_nano_usd,
                spare=need.spare,
                traceparent=need.traceparent,
            )
        except BaseException as error:
            # Unlisted from now on: if billing granted it all the same, the next statement frees it.
            is_refused = isinstance(error, TollbridgeError) and error.code not in _UNSURE
            (self._book.forget if is_refused else self._book.doubt)(lease)
            if isinstance(error, TollbridgeError):
                failed = None if is_refused else error
                self._be_quiet(need)
            raise
        finally:
            self._book.answered(lease)
            if asking is not None:
                del self._asking[need.customer_id]
                asking.set_result(failed)
        lease.asked_beyond_nano_usd, lease.ttl_s = 0, granted.ttl_s
        lease.renew(asked_at_s)
        return lease, granted.amount_nano_usd

    def _be_quiet(self, need: _Need) -> None:
        if not need.caps:
            self._book.wallet(need.customer_id).be_quiet(self._clock())

    def _share(self, lease: Lease) -> None:
        lease.shared = True
        self._book.wallet(lease.customer_id).add(lease)

    def _drawn(self, lease: Lease, amount_nano_usd: int) -> Draw:
        draw = Draw(hold_id=lease.hold_id, amount_nano_usd=amount_nano_usd, closes_hold=not lease.shared)
        self._running.add(draw)
        return draw

    def _end(self, draw: Draw) -> Lease | None:
        """The lease of a draw that ends now; None when it has ended before."""
        try:
            self._running.remove(draw)
        except KeyError:
            return None
        return self._book.get(draw.hold_id)
