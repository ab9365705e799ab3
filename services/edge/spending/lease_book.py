"""The leases of one incarnation: what billing is told of them, and how they come to their end.

A lease is listed in every statement from before billing is asked for it until it is over, so a grant whose reply was
lost is freed by its absence from the next statement, and no money of a running or unconfirmed request ever is.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from chassis.errors import TollbridgeError
from chassis.ids import now_floor
from services.edge.spending.wallet import Lease, LeaseState, Wallet

STATEMENT_EVERY_S = 10.0
MIN_STATEMENT_S = 1.0
RETRY_STATEMENT_S = 1.0
LATE_GRANT_S = 5.0
"""How long after its asker gave up billing may still commit a grant: its limit on a statement."""
RETURN_LIMIT = 256
"""Returns under way at once; what is beyond is freed by the next statement."""


class Listener(Protocol):
    """What billing is told (`owners.BillingOwner`)."""

    async def return_lease(self, *, hold_id: str) -> None: ...

    async def state_leases(
        self, leases: Sequence[LeaseState], *, as_of: str, only_these: bool = False
    ) -> tuple[float, list[str]]: ...

    async def end(self) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFigures:
    """All leases at this moment, in nano-USD, and what has happened to leases so far."""

    count: int
    open_nano_usd: int
    spent_nano_usd: int
    free_nano_usd: int
    events: Mapping[str, int]


class LeaseBook:
    """Every lease, by hold and by customer. It owns the tasks that tell billing of an end."""

    def __init__(self, *, billing: Listener, clock: Callable[[], float]) -> None:
        self._billing = billing
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._asked: set[str] = set()
        self._wallets: dict[str, Wallet] = {}
        self._returns: set[asyncio.Task[None]] = set()
        self._in_doubt_until_s = 0.0
        self._events = dict.fromkeys(("asked", "refilled", "recalled", "lost"), 0)
        self._log = structlog.get_logger()

    @property
    def asked_count(self) -> int:
        """Leases that billing is being asked for."""
        return len(self._asked)

    @property
    def figures(self) -> LeaseFigures:
        """For the metrics."""
        leases = self._leases.values()
        return LeaseFigures(
            count=len(leases),
            open_nano_usd=sum(lease.open_nano_usd for lease in leases),
            spent_nano_usd=sum(lease.spent_nano_usd for lease in leases),
            free_nano_usd=sum(lease.free_nano_usd for lease in leases),
            events=dict(self._events),
        )

    def get(self, hold_id: str) -> Lease | None:
        """The lease, while it is listed."""
        return self._leases.get(hold_id)

    def wallet(self, customer_id: str) -> Wallet:
        """All leases of one customer."""
        wallet = self._wallets.get(customer_id)
        if wallet is None:
            wallet = self._wallets[customer_id] = Wallet()
        return wallet

    def ask(self, lease: Lease, *, early: bool) -> None:
        """From now on it is listed. Called before billing is asked for it; `early` when no request waits for it."""
        self._events["refilled" if early else "asked"] += 1
        self._asked.add(lease.hold_id)
        self._leases[lease.hold_id] = lease
        self.wallet(lease.customer_id).add(lease)

    def answered(self, lease: Lease) -> None:
        """Billing has granted it, or not."""
        self._asked.discard(lease.hold_id)

    def doubt(self, lease: Lease) -> None:
        """It is listed no more, but billing may grant it yet: a statement after that frees it."""
        self._in_doubt_until_s = self._clock() + LATE_GRANT_S
        self.forget(lease)

    def forget(self, lease: Lease) -> None:
        """It is listed no more: billing has ended it, or frees it when the next statement lacks it."""
        self._leases.pop(lease.hold_id, None)
        self.wallet(lease.customer_id).remove(lease)

    def end(self, lease: Lease) -> None:
        """Tells billing that nothing of it is open or unconfirmed; of too many at once the next statement tells."""
        self.forget(lease)
        if len(self._returns) >= RETURN_LIMIT:
            return
        task = asyncio.create_task(self._tell_end(lease), name="return-lease")
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)

    def end_if_over(self, lease: Lease) -> None:
        """Ends a shared lease that nobody draws from any more and that has nothing open or unconfirmed."""
        if lease.shared and lease.retired and lease.is_over:
            self.end(lease)

    async def state(self) -> float:
        """One full statement; returns the seconds until the next. An owner that is down is asked again soon."""
        self._put_in_order()
        due_s = await self._state(self._leases.values(), only_these=False)
        return RETRY_STATEMENT_S if due_s is None else max(MIN_STATEMENT_S, min(due_s, STATEMENT_EVERY_S))

    async def tidy(self) -> None:
        """Gives back what is idle, and tells billing if that was anything."""
        given_back = self._put_in_order()
        if given_back:
            await self._state(given_back, only_these=True)

    async def recall(self, customer_ids: Iterable[str]) -> None:
        """Gives back all that is free of these customers' leases, and states them all: that is the answer."""
        recalled: list[Lease] = []
        for customer_id in customer_ids:
            wallet = self._wallets.get(customer_id)
            if wallet is not None:
                wallet.be_quiet(self._clock())
                wallet.retire()
                wallet.give_back()
                recalled.extend(wallet)
        self._events["recalled"] += len(recalled)
        if recalled:
            await self._state(recalled, only_these=True)

    async def drain(self) -> None:
        """The last words: whatever is free goes back, ends under way are told, and what is left is stated once more.

        With nothing left they are those of a spender that has ended: no spool stays for another replica to end it by.
        """
        for wallet in self._wallets.values():
            wallet.retire()
        self._put_in_order()
        if self._returns:
            await asyncio.wait(self._returns, timeout=RETRY_STATEMENT_S)
        await asyncio.sleep(min(LATE_GRANT_S, max(0.0, self._in_doubt_until_s - self._clock())))
        if self._leases:
            await self.state()
            return
        try:
            await self._billing.end()
        except TollbridgeError as error:
            self._log.warning("spender_not_ended", code=error.code.value)

    async def _tell_end(self, lease: Lease) -> None:
        try:
            if lease.set_aside:  # the dead letter keeps it open there, with all that is not given back by then
                lease.give_back()
                await self._billing.state_leases([lease.state], as_of=str(now_floor()), only_these=True)
            await self._billing.return_lease(hold_id=lease.hold_id)
        except TollbridgeError as error:
            self._log.info("lease_return_failed", hold_id=lease.hold_id, code=error.code.value)

    def _put_in_order(self) -> list[Lease]:
        """Retires what is idle or of no more use, ends what is over; returns what something was given back of."""
        now_s = self._clock()
        given_back: list[Lease] = []
        for customer_id, wallet in list(self._wallets.items()):
            is_idle = wallet.is_idle(now_s)
            if wallet.has_shared:
                wallet.retire_drained()
                if is_idle:
                    wallet.retire()
                for lease in wallet.ended():
                    self.end(lease)
                given_back += wallet.give_back()
            if is_idle and not any(wallet):
                del self._wallets[customer_id]
        return given_back

    async def _state(self, leases: Iterable[Lease], *, only_these: bool) -> float | None:
        """A statement of these leases; the seconds until the next is due, None when billing could not be told."""
        listed, as_of, asked_at_s = list(leases), str(now_floor()), self._clock()
        known = [lease for lease in listed if lease.hold_id not in self._asked]  # others may be too young to be known
        states = [lease.state for lease in listed]
        try:
            due_s, gone = await self._billing.state_leases(states, as_of=as_of, only_these=only_these)
        except TollbridgeError as error:
            self._log.warning("lease_statement_failed", code=error.code.value, leases=len(listed))
            return None
        lost = set(gone)
        for lease in known:
            if lease.hold_id in lost:
                self._lose(lease)
            else:
                lease.renew(asked_at_s)
        return due_s or STATEMENT_EVERY_S

    def _lose(self, lease: Lease) -> None:
        """Billing has ended this lease, or keeps it whole and believes nothing that is said of it.

        Requests that run on it go on: their usage is applied, late if need be.
        """
        self._events["lost"] += 1
        if lease.is_over:
            self.forget(lease)
        elif lease.open_nano_usd and not lease.retired:
            self._log.error("lease_gone_while_open", hold_id=lease.hold_id, open_nano_usd=lease.open_nano_usd)
        lease.retired = True
