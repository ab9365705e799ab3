"""What tests of the bus share: streams of their own, messages, and a handler that keeps what it gets."""

import asyncio
import secrets
from collections.abc import Callable, Sequence

from chassis.bus import Bus, ConsumerSpec, Delivery
from chassis.errors import TollbridgeError
from chassis.streams import StreamSpec

WITHIN_S = 20.0


def specs(retention: str = "limits", max_bytes: int = 1 << 20) -> tuple[StreamSpec, ConsumerSpec]:
    name = "S" + secrets.token_hex(4)
    subject = f"test.{name}.recorded"
    stream = StreamSpec(
        name=name, subjects=(f"test.{name}.>",), retention=retention, max_age_s=3600, max_bytes=max_bytes
    )
    durable = ConsumerSpec(stream=name, durable=f"{name}-apply", subject=subject, max_ack_pending=100, ack_wait_s=2)
    return stream, durable


async def send(bus: Bus, subject: str, *ids: str) -> None:
    for event_id in ids:
        await bus.publish(subject, event_id.encode(), event_id=event_id, event_type="t.v1.Happened", source="test")


async def send_until_stored(bus: Bus, subject: str, event_id: str) -> None:
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        try:
            return await send(bus, subject, event_id)
        except TollbridgeError:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


class Collector:
    """Keeps what it was handed, and acknowledges it."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    async def __call__(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.deliveries.append(delivery)
            await delivery.ack()

    @property
    def texts(self) -> list[str]:
        return [delivery.data.decode() for delivery in self.deliveries]


async def cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
