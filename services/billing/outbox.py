"""Transfers leave for the stream LEDGER: what one transaction wrote is published after it, at least once, in order.

A trigger gives what one statement writes a place in the outbox; a place is dropped only after JetStream has acked.
One replica sends at a time (an advisory lock), so the order is that of the places; a customer's transfers are in the
order of their versions, because their account was locked when they were written.
"""

import asyncio
from collections.abc import Sequence
from uuid import NAMESPACE_URL, UUID, uuid5

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Bus
from chassis.errors import TollbridgeError
from services.billing import events, store
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.figures import Figures
from services.billing.receipts import receipt_store
from services.billing.receipts.receipt_store import Leaving
from services.billing.receipts.receipts import transfer_message
from tollbridge.billing.v1 import billing_pb2

MAX_BATCH = 500
IDLE_PAUSE_S = 0.5
TROUBLE_PAUSE_S = 2.0


class Outbox:
    """The loop that publishes."""

    def __init__(
        self, *, pool: db.Pool, bus: Bus, notices: BalanceNotices, figures: Figures, log: FilteringBoundLogger
    ) -> None:
        self._pool = pool
        self._bus = bus
        self._notices = notices
        self._figures = figures
        self._log = log

    async def run(self) -> None:
        """Publishes until cancelled; trouble with the database or the bus is a pause."""
        while True:
            try:
                sent = await self.send_once()
                pause_s = 0.0 if sent >= MAX_BATCH else IDLE_PAUSE_S
            except (TollbridgeError, store.DatabaseError) as error:
                self._log.warning("outbox_delayed", reason=str(error))
                pause_s = TROUBLE_PAUSE_S
            await asyncio.sleep(pause_s)

    async def send_once(self) -> int:
        """Publishes a batch as one message; returns how many transfers left: all, if fewer than MAX_BATCH.

        Raises UNAVAILABLE.
        """
        async with db.transaction(self._pool) as connection:
            leaving = await receipt_store.take_outbox(connection, limit=MAX_BATCH)
            if not leaving:
                return 0
            await self._bus.publish(
                events.LEDGER_TRANSFERRED,
                _batch(leaving).SerializeToString(),
                event_id=str(_batch_id(leaving)),
                event_type=events.LEDGER_TRANSFERRED,
                source="billing",
            )
            await self._notices.tell(connection, leaving)
            await receipt_store.forget_outbox(connection, {item.place for item in leaving})
        self._figures.transfers_published.inc(len(leaving))
        return len(leaving)


def _batch(leaving: Sequence[Leaving]) -> billing_pb2.LedgerTransferredBatch:
    return billing_pb2.LedgerTransferredBatch(
        events=[
            billing_pb2.LedgerTransferred(
                transfer=transfer_message(item.movement), event_id=item.event_id, leg=item.leg
            )
            for item in leaving
        ]
    )


def _batch_id(leaving: Sequence[Leaving]) -> UUID:
    """The same for the same transfers, so that a batch that is sent twice in a row is stored once."""
    return uuid5(NAMESPACE_URL, f"{leaving[0].movement.id}..{leaving[-1].movement.id}:{len(leaving)}")
