"""Payments in USDT: how one begins, and the loop that watches the chain for its transfer.

A transfer is *seen* when the chain has it, and settles its payment when it has the configured confirmations and was
read from the chain again for that. What arrived is credited, less or more than was asked, in time or up to a day late;
the payment's note says which. A transfer that is gone for ten minutes is dropped, and its payment waits again; should
the chain know it again within a day, it goes on. One that fits no payment is kept as `unmatched`, told by the log and a
metric, and is for the operator to credit by hand.

One replica watches an address at a time, by a claim that lapses; should two do so, the constraints of payments and
transfers still let each transfer settle once. Nobody's message is believed: a webhook only makes the next look sooner.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.billing import store as ledger_store
from services.billing.config import BillingConfig, CryptoSection
from services.billing.payments import crypto_store, store
from services.billing.payments.chain import (
    BEYOND_MICRO_USDT,
    LEAST_MICRO_USDT,
    MOST_MICRO_USDT,
    NANO_USD_PER_MICRO_USDT,
    Chain,
    Listed,
    OnChain,
    note_of,
)
from services.billing.payments.crypto_store import Row
from services.billing.payments.desk import Arrival, PaymentDesk, new_payment
from services.billing.payments.payment import MAX_OPEN, Method, Payment, check_amount, unavailable

LATE_S = 86_400
"""How long after its expiry a payment still takes its money."""
OVERLAP_US = 120_000_000
"""Lists are read again this far back, because they are not always complete at once."""
STALE_S = 600
"""How long the chain may know a transaction in one place and not in another."""
MAX_LOOKED_UP = 50
MAX_FORMER_ADDRESSES = 4
CLAIM_S = 90
"""More than one look can take."""
LEAST_PAUSE_S = 5.0
"""Between two looks, however often we are told to look sooner: anybody may, and the chain's API counts our calls."""
IDLE_POLL_S = 5.0

OpenChain = Callable[[CryptoSection], Awaitable[Chain]]


class CryptoAccess:
    """The chain with the configuration that holds now: made when first needed, and anew when the file changes."""

    def __init__(self, *, config: Callable[[], BillingConfig], open_chain: OpenChain) -> None:
        self._config = config
        self._open_chain = open_chain
        self._opened: tuple[CryptoSection, Chain] | None = None

    @property
    def section(self) -> CryptoSection | None:
        """What the config file has of it."""
        return self._config().crypto

    async def chain(self, section: CryptoSection) -> Chain:
        """The chain of this section."""
        if self._opened is None or self._opened[0] != section:
            self._opened = (section, await self._open_chain(section))
        return self._opened[1]


class CryptoPayments:
    """Begins payments in USDT."""

    def __init__(self, *, pool: db.Pool, desk: PaymentDesk, access: CryptoAccess) -> None:
        self._pool = pool
        self._desk = desk
        self._access = access

    async def create(self, *, customer_id: str, amount_nano_usd: int, request_id: str) -> Payment:
        """Begins a payment with an amount of its own.

        Raises PAYMENT_METHOD_UNAVAILABLE where it is not configured, RATE_LIMIT_EXCEEDED with too many unpaid ones.
        """
        section = self._access.section
        if section is None:
            raise unavailable(Method.CRYPTO)
        draft = new_payment(
            customer_id=customer_id,
            request_id=request_id,
            method=Method.CRYPTO,
            amount_nano_usd=check_amount(amount_nano_usd),
        )

        async def begin(connection: Connection) -> Payment:
            payment, is_new = await self._desk.begin(
                connection, draft, lives_s=section.expires_minutes * 60, late_s=LATE_S
            )
            if not is_new:
                return payment
            if await store.count_suffixes(connection, customer_id) >= MAX_OPEN:
                # each keeps its digits for a day, and there are 9,999 for everybody
                message = f"There were {MAX_OPEN} unpaid payments in USDT within a day; pay one or try again later."
                raise TollbridgeError(Code.RATE_LIMIT_EXCEEDED, message, retry_after_s=3600)
            base = amount_nano_usd // NANO_USD_PER_MICRO_USDT
            named = await store.give_suffix(
                connection, payment, address=section.address, base_micro_usdt=base, round_first=section.round_first
            )
            if named is None:
                raise TollbridgeError(Code.OVERLOADED, "Too many payments are open; try again later.", retry_after_s=60)
            return named

        return await db.in_transaction(self._pool, begin)


class Watch:
    """The loop. Its task is the lifecycle's; cancelled in the middle of a look, its claim lapses."""

    def __init__(self, *, pool: db.Pool, desk: PaymentDesk, access: CryptoAccess, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._desk = desk
        self._access = access
        self._log = log
        self._me = uuid7()
        self._soon = asyncio.Event()

    def look_soon(self) -> None:
        """Makes the next look come at once. Raises PAYMENT_METHOD_UNAVAILABLE where nothing is watched."""
        if self._access.section is None:
            raise unavailable(Method.CRYPTO)
        self._soon.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            section = self._access.section
            pause_s = float(section.poll_seconds) if section is not None else IDLE_POLL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):  # wait_for can lose a cancellation that comes with the word
                    await self._soon.wait()
            self._soon.clear()
            try:
                await self.look()
            except (TollbridgeError, ledger_store.DatabaseError) as error:
                self._log.warning("crypto_look_failed", reason=str(error))
            await asyncio.sleep(LEAST_PAUSE_S)

    async def look(self) -> None:
        """One look at every address that is watched. Raises UNAVAILABLE."""
        section = self._access.section
        if section is None:
            return
        chain = await self._access.chain(section)
        async with db.transaction(self._pool) as connection:
            former = await crypto_store.other_addresses(connection, section.address, limit=MAX_FORMER_ADDRESSES)
        for address in (section.address, *former):
            await self._look_at(address, chain, confirmations=section.confirmations)
        await db.in_transaction(self._pool, crypto_store.expire)

    async def _look_at(self, address: str, chain: Chain, *, confirmations: int) -> None:
        async with db.transaction(self._pool) as connection:
            since_us = await crypto_store.claim(connection, address, by=self._me, claim_s=CLAIM_S)
        if since_us is None:
            return
        seen_until_us = since_us
        try:
            seen_until_us = await self._follow(address, chain, since_us=since_us, confirmations=confirmations)
        finally:
            async with db.transaction(self._pool) as connection:
                await crypto_store.release(connection, address, by=self._me, seen_until_us=seen_until_us)

    async def _follow(self, address: str, chain: Chain, *, since_us: int, confirmations: int) -> int:
        """Looks up what is new and what waits; returns until when everything was looked up."""
        listed = await chain.listed(address, since_us=since_us - OVERLAP_US)
        async with db.transaction(self._pool) as connection:
            worth = [each for each in listed if not each.is_dust]
            finished = await crypto_store.finished(connection, [each.transaction_id for each in worth])
            waiting = await crypto_store.waiting(connection, address, limit=MAX_LOOKED_UP)
        fresh = [each for each in worth if each.transaction_id not in finished]
        now = fresh[:MAX_LOOKED_UP]
        ids = list(dict.fromkeys([*waiting, *(each.transaction_id for each in now)]))
        found = await chain.look_up(address, ids)
        if missing := len(ids) - len(found):
            self._log.warning("crypto_look_cut_short", missing=missing)
        for transaction_id, transfers in found.items():
            await self._sync(address, transaction_id, transfers, confirmations=confirmations)
        return _seen_until_us(since_us, listed, now, found, is_all=len(now) == len(fresh))

    async def _sync(self, address: str, transaction_id: str, found: Sequence[OnChain], *, confirmations: int) -> None:
        """Brings one transaction's transfers to where the chain has them. What the database refuses is told, once a
        look, and keeps nothing else from settling."""

        async def work(connection: Connection) -> None:
            rows = await crypto_store.lock_rows(connection, transaction_id, stale_s=STALE_S)
            for transfer in found:
                row = rows.pop(transfer.position, None)
                if LEAST_MICRO_USDT <= transfer.amount_micro_usdt <= BEYOND_MICRO_USDT:
                    await self._step(
                        connection,
                        address,
                        transaction_id,
                        transfer,
                        row,
                        is_final=transfer.confirmations >= confirmations,
                    )
            for row in rows.values():
                if row.state == "seen" and row.is_stale:
                    await self._drop(connection, transaction_id, row)

        try:
            await db.in_transaction(self._pool, work)
        except (TollbridgeError, *ledger_store.REFUSED) as error:
            if db.is_unavailable(error):
                raise
            self._log.error("crypto_transfer_refused", transaction_id=transaction_id, reason=str(error))

    async def _step(
        self,
        connection: Connection,
        address: str,
        transaction_id: str,
        transfer: OnChain,
        row: Row | None,
        *,
        is_final: bool,
    ) -> None:
        payment_id = None
        if (row is None or row.state == "dropped") and transfer.amount_micro_usdt <= MOST_MICRO_USDT:
            payment_id = await crypto_store.match(
                connection,
                address,
                amount_micro_usdt=transfer.amount_micro_usdt,
                arrived_at_us=transfer.arrived_at_us,
            )
        is_open, payment_id = await crypto_store.see(
            connection, address, transaction_id, transfer, payment_id=payment_id
        )
        if not is_open or not is_final:
            return
        if payment_id is None:
            reason = "no payment waits for this amount"
            await crypto_store.end(connection, transaction_id, transfer.position, state="unmatched", reason=reason)
            self._desk.tell_oddity(
                Method.CRYPTO,
                "unmatched",
                transaction_id=transaction_id,
                amount_micro_usdt=transfer.amount_micro_usdt,
            )
            return
        await self._settle(connection, payment_id, transaction_id, transfer)

    async def _settle(self, connection: Connection, payment_id: UUID, transaction_id: str, transfer: OnChain) -> None:
        payment = await store.lock(connection, payment_id)
        if payment is None:
            raise TollbridgeError(Code.INTERNAL, "a transfer names a payment that is not there")
        name = f"{transaction_id}:{transfer.position}"
        await self._desk.settle_in(
            connection,
            payment_id,
            Arrival(
                amount_nano_usd=transfer.amount_micro_usdt * NANO_USD_PER_MICRO_USDT,
                object_id=name,
                event_id=name,
                note=note_of(payment, transfer),
            ),
        )
        await crypto_store.end(connection, transaction_id, transfer.position, state="settled")

    async def _drop(self, connection: Connection, transaction_id: str, row: Row) -> None:
        """The chain has forgotten it, or it failed after all."""
        reason = "gone from the chain"
        await crypto_store.end(connection, transaction_id, row.position, state="dropped", reason=reason)
        if row.payment_id is not None:
            await crypto_store.unsee(connection, row.payment_id)
        self._log.warning("crypto_transfer_dropped", transaction_id=transaction_id)


def _seen_until_us(
    since_us: int,
    listed: Sequence[Listed],
    looked_up: Sequence[Listed],
    found: Mapping[str, Sequence[OnChain]],
    *,
    is_all: bool,
) -> int:
    """Until when nothing needs to be listed again. What the chain lists and doesn't know yet is waited for a while, and
    what could not be asked for as long as it takes."""
    stale_us = int(time.time() - STALE_S) * 1_000_000
    for each in looked_up:
        if each.transaction_id not in found:
            return each.arrived_at_us
        if not found.get(each.transaction_id) and each.arrived_at_us > stale_us:
            return each.arrived_at_us
    last = listed if is_all else looked_up
    return last[-1].arrived_at_us if last else since_us
