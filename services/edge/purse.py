"""The purse: credit that billing has leased to this incarnation, and what its requests draw from it.

Today every draw is a lease of its own (`lease_chunk: exact`): one round trip, and the lease ends with the request's
event. Adaptive leases will live behind the same four verbs. A lease is listed in every statement from before billing
is asked until billing has confirmed the event that closes it, so a grant whose reply was lost is freed by its absence
from the next statement, and no money of a running or unconfirmed request ever is.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import structlog

from chassis.errors import TollbridgeError
from chassis.ids import now_floor, uuid7
from services.edge.owners import Granted, LeaseState
from services.edge.spend_caps import SpendCap

STATEMENT_EVERY_S = 10.0
MIN_STATEMENT_S = 1.0
RETRY_STATEMENT_S = 1.0
RETURN_LIMIT = 256
"""Returns under way at once; what is beyond is freed by the next statement."""


class Lender(Protocol):
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
        traceparent: str = "",
    ) -> Granted: ...

    async def return_lease(self, *, hold_id: str, free_nano_usd: int) -> None: ...

    async def state_leases(self, leases: list[LeaseState], *, as_of: str) -> tuple[float, list[str]]: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What one request may cost at most, in nano-USD, and the hold that covers it."""

    hold_id: str
    amount_nano_usd: int


class Purse:
    """One incarnation's leases. Its owner runs `run()` as a task and calls `drain()` before that task is cancelled."""

    def __init__(self, *, billing: Lender, spender: UUID) -> None:
        self._billing = billing
        self._spender = spender
        self._leases: dict[str, LeaseState] = {}
        self._asked: set[str] = set()
        self._returns: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    @property
    def spender(self) -> UUID:
        """The incarnation that all draws belong to."""
        return self._spender

    @property
    def open_count(self) -> int:
        """Draws of running requests."""
        return sum(1 for lease in self._leases.values() if lease.open_nano_usd or lease.hold_id in self._asked)

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
        hold_id = str(uuid7())
        self._asked.add(hold_id)
        self._leases[hold_id] = LeaseState(hold_id=hold_id, open_nano_usd=worst_case_nano_usd, spent_nano_usd=0)
        try:
            granted = await self._billing.grant_lease(
                hold_id=hold_id,
                customer_id=customer_id,
                request_id=request_id,
                amount_nano_usd=worst_case_nano_usd,
                least_nano_usd=least_nano_usd,
                caps=caps,
                replaces_hold_id=replaces.hold_id if replaces is not None else "",
                traceparent=traceparent,
            )
        except BaseException:
            # Unlisted from now on: if billing granted it all the same, the next statement frees it.
            del self._leases[hold_id]
            raise
        finally:
            self._asked.discard(hold_id)
        if replaces is not None:
            self._leases.pop(replaces.hold_id, None)
        amount = granted.amount_nano_usd
        self._leases[hold_id] = LeaseState(hold_id=hold_id, open_nano_usd=amount, spent_nano_usd=0)
        return Draw(hold_id=hold_id, amount_nano_usd=amount)

    def settled(self, draw: Draw, *, spent_nano_usd: int) -> None:
        """The request ended and its event is in the spool; listed as spent until `confirmed`."""
        spent = min(spent_nano_usd, draw.amount_nano_usd)
        self._leases[draw.hold_id] = LeaseState(hold_id=draw.hold_id, open_nano_usd=0, spent_nano_usd=spent)

    def confirmed(self, hold_id: str) -> None:
        """Billing has applied the event that closes this hold."""
        self._leases.pop(hold_id, None)

    def give_back(self, draw: Draw) -> None:
        """Nothing was or will be spent of it. Returns at once; the purse owns the call that tells billing."""
        if self._leases.pop(draw.hold_id, None) is None or len(self._returns) >= RETURN_LIMIT:
            return
        task = asyncio.create_task(self._return(draw), name="return-lease")
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)

    async def run(self) -> None:
        """States all leases until cancelled."""
        while True:
            due_s = await self.state()
            await asyncio.sleep(due_s)

    async def state(self) -> float:
        """One full statement; returns the seconds until the next. An owner that is down is asked again soon."""
        listed, as_of = list(self._leases.values()), str(now_floor())
        known = self._leases.keys() - self._asked  # what is still asked for may just be too young to be known
        try:
            renew_in_s, gone = await self._billing.state_leases(listed, as_of=as_of)
        except TollbridgeError as error:
            self._log.warning("lease_statement_failed", code=error.code.value, leases=len(listed))
            return RETRY_STATEMENT_S
        for hold_id in known.intersection(gone):
            self._drop(hold_id)
        return max(MIN_STATEMENT_S, min(renew_in_s or STATEMENT_EVERY_S, STATEMENT_EVERY_S))

    async def drain(self) -> None:
        """The last words of this incarnation: returns under way are finished, and what is left is stated once more."""
        if self._returns:
            await asyncio.wait(self._returns, timeout=RETRY_STATEMENT_S)
        await self.state()

    def _drop(self, hold_id: str) -> None:
        """Billing no longer knows this hold."""
        lease = self._leases.pop(hold_id, None)
        if lease is not None and lease.open_nano_usd:
            # The request runs on: its usage is applied late, from the balance first.
            self._log.error("lease_gone_while_open", hold_id=hold_id, open_nano_usd=lease.open_nano_usd)

    async def _return(self, draw: Draw) -> None:
        try:
            await self._billing.return_lease(hold_id=draw.hold_id, free_nano_usd=draw.amount_nano_usd)
        except TollbridgeError as error:
            self._log.info("lease_return_failed", hold_id=draw.hold_id, code=error.code.value)
