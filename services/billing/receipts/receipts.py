"""Receipts: a request's log line with what the customer paid and every movement of money behind it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from chassis import db
from chassis.errors import Code, TollbridgeError
from pricing.prices import PriceVersion
from services.billing import store
from services.billing.holding.holds import Hold
from services.billing.prices import PriceBook
from services.billing.receipts import receipt_document, receipt_store
from services.billing.receipts.receipt_keys import ReceiptKeys
from services.billing.receipts.receipt_store import Line, Movement
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


class Receipts:
    """Reads only; what it shows is as committed now."""

    def __init__(self, *, pool: db.Pool, prices: PriceBook, keys: ReceiptKeys) -> None:
        self._pool = pool
        self._prices = prices
        self._keys = keys

    async def get(self, request_id: UUID, *, customer_id: str) -> billing_pb2.Receipt:
        """The receipt, signed; unsettled and unsigned while only a hold is known.

        Raises NOT_FOUND, also for another customer's request and for one that is older than the log.
        """
        async with db.transaction(self._pool) as connection:
            line = await receipt_store.line(connection, request_id)
            if line is None:
                hold = await store.hold_of_request(connection, request_id)
                dropped = await receipt_store.is_dropped(connection, request_id)
                if hold is None or dropped or customer_id not in {"", hold.customer_id}:
                    raise _not_found()
                return _unsettled(hold)
            if customer_id not in {"", line.customer_id}:
                raise _not_found()
            movements = await receipt_store.movements(connection, [request_id])
        prices = await self._prices_of([line])
        receipt, document = _receipt(line, prices, movements)
        receipt.document = _json(await self._keys.signed(document))
        return receipt

    async def page(
        self, *, customer_id: str, after: UUID | None, limit: int, ended: Sequence[str] = ()
    ) -> tuple[list[billing_pb2.Receipt], bool]:
        """One page of settled requests, newest first and not signed, and whether more follow.

        `ended` (names of `charges.ENDED`) leaves out those that ended in other ways; without any it is all.
        """
        size = min(limit, MAX_LIMIT) if limit > 0 else DEFAULT_LIMIT
        async with db.transaction(self._pool) as connection:
            lines = await receipt_store.page(
                connection,
                customer_id=customer_id,
                ended=ended,
                before=after or receipt_store.LAST,
                limit=size + 1,
            )
            shown = lines[:size]
            movements = await receipt_store.movements(connection, [line.request_id for line in shown])
        prices = await self._prices_of(shown)
        moved: dict[UUID | None, list[Movement]] = {}
        for movement in movements:
            moved.setdefault(movement.request_id, []).append(movement)
        receipts = []
        for line in shown:
            receipt, document = _receipt(line, prices, moved.get(line.request_id, ()))
            receipt.document = _json(document)
            receipts.append(receipt)
        return receipts, len(lines) > size

    async def _prices_of(self, lines: Iterable[Line]) -> dict[str, PriceVersion]:
        """What the lines were charged by; a void was charged by nothing."""
        events = (usage_pb2.UsageRecorded.FromString(line.recorded) for line in lines)
        return await self._prices.stored(
            {event.price_version for event in events if event.kind == usage_pb2.USAGE_KIND_CHARGE}
        )


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


def _receipt(
    line: Line, prices: Mapping[str, PriceVersion], movements: Sequence[Movement]
) -> tuple[billing_pb2.Receipt, receipt_document.Document]:
    usage = usage_pb2.UsageRecorded.FromString(line.recorded)
    price = prices.get(usage.price_version) if usage.kind == usage_pb2.USAGE_KIND_CHARGE else None
    receipt = billing_pb2.Receipt(
        usage=usage,
        charged_nano_usd=line.paid_nano_usd,
        transfers=[transfer_message(movement) for movement in movements],
        settled=True,
    )
    return receipt, receipt_document.settled(line, usage, price, movements)


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
    return billing_pb2.Receipt(usage=usage, settled=False, document=_json(receipt_document.unsettled(usage)))


def _json(document: receipt_document.Document) -> bytes:
    """In the order in which people read it; the signature is over the canonical form."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _not_found() -> TollbridgeError:
    return TollbridgeError(Code.NOT_FOUND, "There is no such request.")
