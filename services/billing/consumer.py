"""Usage events from the bus: decode, apply in transactions of at most 500 events, ack after the commit.

A message is acked when each of its events is committed or lies in the dead letters. When the database is in trouble, or
a price can't be had, it is given back with a growing delay; what of it was applied is a duplicate the next time.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from uuid import UUID

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


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """Events of one message that are applied together: all, if it has no more than go into one transaction."""

    message: _Message
    events: Sequence[usage_pb2.UsageRecorded]
    batch_id: UUID | None


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
        arrived: list[_Part] = []
        for message in messages:
            try:
                batch = usage_pb2.UsageBatch.FromString(message.delivery.data)
            except DecodeError:
                await self._settlement.set_aside(message.delivery.data, "the message is no batch of usage events")
                continue
            arrived += _parts(message, batch)
        for slice_ in _slices(arrived):
            await self._settle(slice_)

    async def _settle(self, parts: Sequence[_Part]) -> None:
        events: list[usage_pb2.UsageRecorded] = []
        batches: dict[UUID, range] = {}
        for part in parts:
            if part.batch_id is not None:
                batches[part.batch_id] = range(len(events), len(events) + len(part.events))
            events += part.events
        fates = iter(await self._settlement.apply(events, batches=batches))
        for part in parts:
            waiting = list(itertools.islice(fates, len(part.events))).count(Fate.WAITING)
            if waiting:
                part.message.unsettled = True
                self._figures.events_waiting.inc(waiting)


def _parts(message: _Message, batch: usage_pb2.UsageBatch) -> list[_Part]:
    events = list(batch.events)
    if len(events) <= MAX_EVENTS:
        return [_Part(message, events, _batch_id(batch.id))]
    cuts = range(0, len(events), MAX_EVENTS)
    return [_Part(message, events[start : start + MAX_EVENTS], None) for start in cuts]


def _batch_id(text: str) -> UUID | None:
    """Without one that can be read, its events are asked about singly."""
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def _slices(arrived: Sequence[_Part]) -> Iterator[Sequence[_Part]]:
    """What goes into one transaction each, in order."""
    slice_: list[_Part] = []
    events = 0
    for part in arrived:
        if slice_ and events + len(part.events) > MAX_EVENTS:
            yield slice_
            slice_, events = [], 0
        slice_.append(part)
        events += len(part.events)
    if slice_:
        yield slice_


def _delay_s(deliveries: int) -> float:
    return float(min(MAX_DELAY_S, 0.25 * 2 ** min(deliveries, 10)))
