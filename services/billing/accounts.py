"""Customers' accounts: opening with the welcome credit, balances, credits, corrections and refunds.

Each is one transaction and one transfer, named by its cause, so that a repeated call finds what the first one made.
"""

from collections.abc import Sequence
from uuid import UUID

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.billing import store
from services.billing.books import Books
from services.billing.holding import cap_store
from services.billing.holding.caps import CapAccount, CapRows
from services.billing.ledger import Account, Transfer, UsageKind, UsageRow, credits_account
from services.billing.receipts import receipt_store


class Accounts:
    """What may be done with accounts beside holding and charging."""

    def __init__(self, *, pool: db.Pool) -> None:
        self._pool = pool

    async def open(self, customer_id: str, *, welcome_nano_usd: int) -> Account:
        """Opens the account, once, with its welcome credit; returns it as it is now."""

        async def work(connection: Connection) -> Account:
            if await store.open_account(connection, customer_id):
                books = Books(new_id=uuid7)
                books.open(customer_id, welcome_nano_usd=welcome_nano_usd)
                await store.save_books(connection, books)
                return books.accounts[customer_id]
            return await _read(connection, customer_id)

        return await db.in_transaction(self._pool, work)

    async def read(self, customer_id: str) -> Account:
        """The account as committed now. Raises NOT_FOUND."""
        async with db.transaction(self._pool) as connection:
            return await _read(connection, customer_id)

    async def caps(self, cap_ids: Sequence[str]) -> dict[str, CapAccount]:
        """The cap accounts of these ids, as committed now; one that counted nothing yet is not there."""
        async with db.transaction(self._pool) as connection:
            return await cap_store.read(connection, cap_ids)

    async def adjust(
        self, customer_id: str, amount_nano_usd: int, *, request_id: str, reason: str
    ) -> tuple[Transfer, Account]:
        """Adds or takes away credit; the same request_id is the same transfer.

        Raises NOT_FOUND, INVALID_REQUEST, INSUFFICIENT_CREDITS, and IDEMPOTENCY_MISMATCH when the request_id was used
        for another customer or amount.
        """
        event_id = f"adjustment:{request_id}"

        async def work(connection: Connection) -> tuple[Transfer, Account]:
            books = await store.lock_books(connection, customer_ids=[customer_id])
            known = await store.transfer_of_event(connection, event_id)
            if known is not None:
                if known.customer_id != customer_id or _signed(known) != amount_nano_usd:
                    raise TollbridgeError(Code.IDEMPOTENCY_MISMATCH, "the request id was used for something else")
                return known, books.account(customer_id)
            transfer = books.adjust(customer_id, amount_nano_usd, event_id=event_id, reason=reason)
            await store.save_books(connection, books)
            return transfer, books.accounts[customer_id]

        try:
            return await db.in_transaction(self._pool, work)
        except store.REFUSED:  # another customer's, under the same id, came first: now it is known
            return await db.in_transaction(self._pool, work)

    async def refund(
        self, request_id: UUID, *, amount_nano_usd: int, reason: str, call_id: str = ""
    ) -> tuple[Transfer, Account]:
        """Gives back what a request took, once; amount 0 is all of it. The same call_id is the same refund.

        Raises NOT_FOUND (also when the log has dropped it), NOT_SETTLED before the charge is committed,
        ALREADY_REFUNDED, and INVALID_REQUEST when the request took nothing or less.
        """

        async def work(connection: Connection) -> tuple[Transfer, Account]:
            line = await receipt_store.line(connection, request_id)
            if line is None:
                hold = await store.hold_of_request(connection, request_id)
                if hold is None or await receipt_store.is_dropped(connection, request_id):
                    raise TollbridgeError(Code.NOT_FOUND, "There is no such request.")
                raise TollbridgeError(Code.NOT_SETTLED, "the request is not settled yet")
            books = await store.lock_books(connection, customer_ids=[line.customer_id], request_ids=[request_id])
            charge = await store.transfer_of_event(connection, f"charge:{request_id}")
            if charge is None or charge.customer_id is None:
                raise TollbridgeError(Code.INVALID_REQUEST, "the request took nothing from the customer")
            books.caps = CapRows(await cap_store.lock(connection, charge.cap_ids))
            if call_id and await receipt_store.refunded_by(connection, request_id) == call_id:
                known = await store.transfer_of_event(connection, f"refund:{request_id}")
                if known is not None:
                    return known, books.account(line.customer_id)
            transfer = books.refund(charge, request_id=request_id, amount_nano_usd=amount_nano_usd, reason=reason)
            row = UsageRow(
                request_id=request_id,
                kind=UsageKind.REFUND,
                customer_id=line.customer_id,
                charge_nano_usd=-transfer.amount_nano_usd,
                taken_nano_usd=-transfer.amount_nano_usd,
                recorded=call_id.encode(),
            )
            await store.save_books(connection, books, usage=[row])
            return transfer, books.accounts[line.customer_id]

        return await db.in_transaction(self._pool, work)


async def _read(connection: Connection, customer_id: str) -> Account:
    account = await store.read_account(connection, customer_id)
    if account is None:
        raise TollbridgeError(Code.NOT_FOUND, "no such customer account")
    return account


def _signed(transfer: Transfer) -> int:
    """The transfer as its customer sees it: positive when it was credited."""
    if transfer.customer_id is not None and transfer.credit == credits_account(transfer.customer_id):
        return transfer.amount_nano_usd
    return -transfer.amount_nano_usd
