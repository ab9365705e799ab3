"""Transfers leave for the stream LEDGER: what one transaction wrote is published after it, at least once, in order.

A trigger gives what one statement writes a place in the outbox; a place is dropped only after JetStream has acked.
One replica sends at a time (an advisory lock), so the order is that of the places; a customer's transfers are in the
order of their versions, because their account was locked when they were written.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from uuid import NAMESPACE_URL, uuid5

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Bus
from chassis.errors import TollbridgeError
from chassis.ids import text_of
from services.billing import events, outbox_store, store
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.figures import Figures
from services.billing.outbox_store import Leaving
from services.billing.written import Memory
from tollbridge.billing.v1 import billing_pb2

MAX_BATCH = 1000
"""Transfers of one message, as far as statements end there: with the largest one besides, well below a megabyte."""
IDLE_PAUSE_S = 1.0
TROUBLE_PAUSE_S = 2.0


class Outbox:
    """The loop that publishes."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        bus: Bus,
        notices: BalanceNotices,
        figures: Figures,
        log: FilteringBoundLogger,
        memory: Memory | None = None,
    ) -> None:
        self._pool = pool
        self._bus = bus
        self._notices = notices
        self._figures = figures
        self._log = log
        self._memory = memory or Memory()

    async def run(self) -> None:
        """Publishes until cancelled; trouble with the database or the bus is a pause."""
        while True:
            self._memory.start_reading()
            try:
                if await self.send_once() < MAX_BATCH:
                    await self._rest()
            except (TollbridgeError, store.DatabaseError) as error:
                self._log.warning("outbox_delayed", reason=str(error))
                await asyncio.sleep(TROUBLE_PAUSE_S)

    async def _rest(self) -> None:
        """For IDLE_PAUSE_S, because a look costs as much for one transfer as for hundreds; less where many are made."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_PAUSE_S):  # wait_for may lose a cancellation
                await self._memory.is_filling.wait()

    async def send_once(self) -> int:
        """Publishes a batch as one message; returns how many transfers left: all, if fewer than MAX_BATCH.

        Raises UNAVAILABLE.
        """
        async with db.transaction(self._pool) as connection:
            leaving = await outbox_store.take(connection, self._memory, limit=MAX_BATCH)
            if not leaving:
                return 0
            batch = _batch(leaving)
            await self._bus.publish(
                events.LEDGER_TRANSFERRED,
                batch.SerializeToString(),
                event_id=_batch_id(batch),
                event_type=events.LEDGER_TRANSFERRED,
                source="billing",
            )
            await self._notices.tell(connection, [each.written for each in leaving])
            await outbox_store.forget(connection, leaving)
        self._figures.transfers_published.inc(len(batch.events))
        return len(batch.events)


def _batch(leaving: Sequence[Leaving]) -> billing_pb2.LedgerTransferredBatch:
    batch = billing_pb2.LedgerTransferredBatch()
    for each in leaving:
        created_at_us = each.written.created_at_us
        for transfer in each.written.transfers:
            event = batch.events.add()
            event.event_id = transfer.event_id
            event.leg = transfer.leg
            moved = event.transfer
            moved.id = text_of(transfer.id)
            moved.debit = transfer.debit
            moved.credit = transfer.credit
            moved.amount_nano_usd = transfer.amount_nano_usd
            moved.kind = transfer.kind
            moved.created_at_us = created_at_us
    return batch


def _batch_id(batch: billing_pb2.LedgerTransferredBatch) -> str:
    """The same for the same transfers, so that a batch that is sent twice in a row is stored once."""
    ids = [event.transfer.id for event in (batch.events[0], batch.events[-1])]
    return str(uuid5(NAMESPACE_URL, f"{ids[0]}..{ids[1]}:{len(batch.events)}"))
