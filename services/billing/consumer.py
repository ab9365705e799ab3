"""Usage events from the bus: decode, apply in transactions of at most 500 events, ack after the commit.

A message is acked when each of its events is committed or lies in the dead letters. When the database is in trouble, or
a price can't be had, it is given back with a growing delay; what of it was applied is a duplicate the next time.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError
from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Delivery
from chassis.errors import TollbridgeError
from services.billing.figures import Figures
from services.billing.settlement import MAX_EVENTS, Fate, Settlement
from tollbridge.usage.v1 import usage_pb2

MAX_DELAY_S = 30.0


@dataclasses.dataclass(slots=True, eq=False)
class _Message:
    """One message on its way through; `unsettled` when it must come again."""

    delivery: Delivery
    unsettled: bool = False


_Arrived = tuple[_Message, usage_pb2.UsageRecorded]


class UsageConsumer:
    """Handles what the durable `billing-apply-usage` brings."""

    def __init__(self, *, settlement: Settlement, figures: Figures, log: FilteringBoundLogger) -> None:
        self._settlement = settlement
        self._figures = figures
        self._log = log

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Applies all events of these messages and acks or naks each message."""
        messages = [_Message(delivery) for delivery in deliveries]
        try:
            await self._apply(messages)
        except TollbridgeError as error:
            if not db.is_unavailable(error):
                raise
            self._log.warning("usage_delayed", reason=error.message, messages=len(messages))
            for message in messages:
                message.unsettled = True
        for message in messages:
            if message.unsettled:
                await message.delivery.nak(_delay_s(message.delivery.deliveries))
            else:
                await message.delivery.ack()

    async def _apply(self, messages: Sequence[_Message]) -> None:
        arrived: list[_Arrived] = []
        for message in messages:
            try:
                batch = usage_pb2.UsageBatch.FromString(message.delivery.data)
            except DecodeError:
                await self._settlement.set_aside(message.delivery.data, "the message is no batch of usage events")
                continue
            arrived += [(message, event) for event in batch.events]
        for slice_ in _slices(arrived):
            fates = await self._settlement.apply([event for _, event in slice_])
            for (message, _), fate in zip(slice_, fates, strict=True):
                if fate is Fate.WAITING:
                    message.unsettled = True
                    self._figures.events_waiting.inc()


def _slices(arrived: Sequence[_Arrived]) -> Iterator[Sequence[_Arrived]]:
    for start in range(0, len(arrived), MAX_EVENTS):
        yield arrived[start : start + MAX_EVENTS]


def _delay_s(deliveries: int) -> float:
    return float(min(MAX_DELAY_S, 0.25 * 2 ** min(deliveries, 10)))
