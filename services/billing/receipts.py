"""Receipts: a request's log line with what the customer paid and every movement of money behind it."""

from collections.abc import Sequence
from uuid import UUID

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.billing import receipt_store, store
from services.billing.holds import Hold
from services.billing.receipt_store import Line, Movement
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


class Receipts:
    """Reads only; what it shows is as committed now."""

    def __init__(self, *, pool: db.Pool) -> None:
        self._pool = pool

    async def get(self, request_id: UUID, *, customer_id: str) -> billing_pb2.Receipt:
        """The receipt; unsettled while only a hold is known. Raises NOT_FOUND, also for another customer's request."""
        async with db.transaction(self._pool) as connection:
            line = await receipt_store.line(connection, request_id)
            if line is None:
                hold = await store.hold_of_request(connection, request_id)
                if hold is None or customer_id not in {"", hold.customer_id}:
                    raise _not_found()
                return _unsettled(hold)
            if customer_id not in {"", line.customer_id}:
                raise _not_found()
            movements = await receipt_store.movements(connection, [request_id])
        return _receipt(line, movements)

    async def page(self, *, customer_id: str, after: UUID | None, limit: int) -> tuple[list[billing_pb2.Receipt], bool]:
        """One page of settled requests, newest first, and whether more follow."""
        size = min(limit, MAX_LIMIT) if limit > 0 else DEFAULT_LIMIT
        async with db.transaction(self._pool) as connection:
            lines = await receipt_store.page(
                connection, customer_id=customer_id, before=after or receipt_store.LAST, limit=size + 1
            )
            shown = lines[:size]
            movements = await receipt_store.movements(connection, [line.request_id for line in shown])
        receipts = [_receipt(line, [it for it in movements if it.request_id == line.request_id]) for line in shown]
        return receipts, len(lines) > size


def transfer_message(movement: Movement) -> billing_pb2.Transfer:
    """A transfer as other services see it."""
    return billing_pb2.Transfer(
        id=str(movement.id),
        debit=movement.debit,
        credit=movement.credit,
        amount_nano_usd=movement.amount_nano_usd,
        kind=movement.kind,
        created_at_us=movement.created_at_us,
    )


def _receipt(line: Line, movements: Sequence[Movement]) -> billing_pb2.Receipt:
    return billing_pb2.Receipt(
        usage=usage_pb2.UsageRecorded.FromString(line.recorded),
        charged_nano_usd=line.paid_nano_usd,
        transfers=[transfer_message(movement) for movement in movements],
        settled=True,
    )


def _unsettled(hold: Hold) -> billing_pb2.Receipt:
    usage = usage_pb2.UsageRecorded(
        request_id=str(hold.request_id),
        customer_id=hold.customer_id,
        key_id=hold.key_id,
        hold_id=str(hold.id),
        spender=hold.spender,
        provider_reported_cost_nano_usd=-1,
        first_byte_ms=-1,
        started_at_us=hold.granted_at_us,
    )
    return billing_pb2.Receipt(usage=usage, settled=False)


def _not_found() -> TollbridgeError:
    return TollbridgeError(Code.NOT_FOUND, "no such request")
