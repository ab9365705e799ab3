"""Work orders from the bus. An order only wakes: whose turn it is, the database says, and it is asked anyway.

An order is answered as soon as it is heard; one that is lost, doubled, late or unreadable does no harm.
"""

from collections.abc import Awaitable, Callable, Sequence

from chassis.bus import Delivery


def waker(wake: Callable[[], None]) -> Callable[[Sequence[Delivery]], Awaitable[None]]:
    """Wakes somebody for every batch of orders."""

    async def handle(deliveries: Sequence[Delivery]) -> None:
        wake()
        for delivery in deliveries:
            await delivery.ack()

    return handle
