"""USDT that came without naming a payment: what there is, and giving it to the customer whose it turns out to be.

It becomes a payment of theirs that is settled at once, through the clearing account like any other, so the chain and
the ledger stay comparable. A transfer is given once.
"""

from datetime import datetime
from uuid import UUID

import msgspec
from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from services.billing import store as ledger_store
from services.billing.ledger import MAX_AMOUNT
from services.billing.payments import crypto_store, store
from services.billing.payments.chain import NANO_USD_PER_MICRO_USDT
from services.billing.payments.desk import Arrival, PaymentDesk, new_payment
from services.billing.payments.payment import Method, Payment

MAX_LISTED = 1000
USDT_NANO_USD = 1_000_000_000


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that waits for an operator."""

    transaction_id: str
    position: int
    sender: str
    amount_micro_usdt: int
    arrived_at: datetime


class Unmatched:
    """What an operator may do."""

    def __init__(self, *, pool: db.Pool, desk: PaymentDesk, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._desk = desk
        self._log = log

    async def list(self) -> list[Transfer]:
        """The newest first."""
        async with db.transaction(self._pool) as connection:
            rows = await crypto_store.unmatched(connection, limit=MAX_LISTED)
        return [
            Transfer(transaction_id=id_, position=position, sender=sender, amount_micro_usdt=amount, arrived_at=at)
            for id_, position, sender, amount, at in rows
        ]

    async def assign(self, transaction_id: str, position: int, *, customer_id: str) -> Payment:
        """Credits a transfer to a customer; repeated, the same payment.

        Raises NOT_FOUND without such a transfer or account, CONFLICT when it is not settled or is somebody's,
        INVALID_REQUEST when it is more than one transfer of the ledger can be.
        """

        async def work(connection: Connection) -> Payment:
            found = await crypto_store.lock_transfer(connection, transaction_id, position)
            if found is None or await ledger_store.read_account(connection, customer_id) is None:
                raise TollbridgeError(Code.NOT_FOUND, "there is no such transfer or customer")
            state, payment_id, amount_micro_usdt = found
            if payment_id is not None:
                return await self._same(connection, payment_id, customer_id)
            if state != "unmatched":
                raise TollbridgeError(Code.CONFLICT, "the transfer is not settled on the chain")
            return await self._give(connection, transaction_id, position, customer_id, amount_micro_usdt)

        payment = await db.in_transaction(self._pool, work)
        self._log.info("crypto_transfer_assigned", transaction_id=transaction_id, customer_id=customer_id)
        return payment

    async def _same(self, connection: Connection, payment_id: UUID, customer_id: str) -> Payment:
        payment = await store.read(connection, payment_id)
        if payment is None or payment.customer_id != customer_id or not payment.credited_nano_usd:
            raise TollbridgeError(Code.CONFLICT, "the transfer is another payment's")
        return payment

    async def _give(
        self, connection: Connection, transaction_id: str, position: int, customer_id: str, amount_micro_usdt: int
    ) -> Payment:
        name = f"{transaction_id}:{position}"
        amount = amount_micro_usdt * NANO_USD_PER_MICRO_USDT
        if amount > MAX_AMOUNT:
            most = MAX_AMOUNT // USDT_NANO_USD
            message = f"the transfer is above {most} USDT, the most at once; credit it by adjustments instead"
            raise TollbridgeError(Code.INVALID_REQUEST, message)
        draft = new_payment(
            customer_id=customer_id, request_id=f"assigned:{name}", method=Method.CRYPTO, amount_nano_usd=amount
        )
        await store.add(connection, draft, lives_s=0, late_s=0)
        arrival = Arrival(amount_nano_usd=amount, object_id=name, event_id=name, note="assigned")
        payment = await self._desk.settle_in(connection, draft.id, arrival)
        await crypto_store.give(connection, transaction_id, position, payment_id=payment.id)
        return payment
