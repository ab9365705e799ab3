"""Carries outbox letters onto the bus: work orders and usage to their streams, news to whoever listens."""

import uuid
from collections.abc import Sequence

from chassis.bus import Bus
from services.tasks import events
from services.tasks.outbox import Letter


class Publisher:
    """Publishes letters. Raises UNAVAILABLE when one could not be; those before it may go twice."""

    def __init__(self, *, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, letters: Sequence[Letter]) -> None:
        """Usage goes in one message, the rest one by one."""
        usage = [letter for letter in letters if letter.kind == "usage"]
        if usage:
            await self._bus.publish(
                events.USAGE_RECORDED,
                events.usage_batch([letter.payload for letter in usage]),
                event_id=str(uuid.uuid4()),  # never the same twice: another batch may begin with the same record
                event_type=events.USAGE_TYPE,
                source=events.SOURCE,
                traceparent=usage[0].traceparent,
            )
        for letter in letters:
            if letter.kind == "run":
                await self._order(letter)
            elif letter.kind == "finished":
                await self._tell(letter)

    async def _order(self, letter: Letter) -> None:
        await self._bus.publish(
            events.RUN_CONSUMERS[letter.task_kind].subject,
            letter.payload,
            event_id=letter.event_id,
            event_type=events.ORDER_TYPE,
            source=events.SOURCE,
            traceparent=letter.traceparent,
        )

    async def _tell(self, letter: Letter) -> None:
        await self._bus.announce(events.FINISHED, letter.payload)
