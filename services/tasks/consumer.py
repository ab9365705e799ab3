"""Work orders from the bus: read, and answered without ever failing, since the database is the truth.

An answer that does not reach the bus costs one more delivery, which then finds nothing to do.
"""

import dataclasses
import uuid

from google.protobuf.message import DecodeError
from nats.errors import Error as NatsError
from structlog.typing import FilteringBoundLogger

from chassis.bus import Delivery
from tollbridge.tasks.v1 import tasks_pb2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summons:
    """One work order and the way to answer it."""

    task_id: str
    delivery: Delivery
    log: FilteringBoundLogger

    async def done(self) -> None:
        """There is nothing more to do."""
        try:
            await self.delivery.ack()
        except NatsError as error:
            self.log.warning("work_order_not_answered", task_id=self.task_id, error=repr(error))

    async def again(self, pause_s: float) -> None:
        """Bring it again after a pause."""
        try:
            await self.delivery.nak(pause_s)
        except NatsError as error:
            self.log.warning("work_order_not_answered", task_id=self.task_id, error=repr(error))

    async def still_at_it(self) -> None:
        """Don't bring it to anybody else yet."""
        try:
            await self.delivery.in_progress()
        except NatsError as error:
            self.log.warning("work_order_not_answered", task_id=self.task_id, error=repr(error))


def read(delivery: Delivery, log: FilteringBoundLogger) -> Summons:
    """Reads a work order. Raises ValueError when it is none."""
    try:
        task_id = str(uuid.UUID(tasks_pb2.WorkOrder.FromString(delivery.data).task_id))
    except DecodeError as error:
        raise ValueError("it is no work order") from error
    return Summons(task_id=task_id, delivery=delivery, log=log)
