"""Recalls: asking every spender for what it has free of a customer's leases, when somebody else needs it.

Best effort, by a message that no stream keeps. Whoever waits asks again while it waits, so that a lost one costs a
moment; a spender that never answers is told apart from one that has nothing left by what it has stated since.
"""

import asyncio

from structlog.typing import FilteringBoundLogger

from chassis.bus import Bus
from chassis.errors import TollbridgeError
from services.billing import events
from tollbridge.billing.v1 import billing_pb2

PAUSE_S = 0.1
MAX_NAMED = 1000
"""Customers in one message; the others are named in the next."""


class Recalls:
    """Gathers whose credit is short and tells it at most every PAUSE_S. Its owner runs `run()` as a task."""

    def __init__(self, *, log: FilteringBoundLogger) -> None:
        self._log = log
        self._short: dict[str, None] = {}
        self._wake = asyncio.Event()

    def ask(self, customer_id: str) -> None:
        """Returns at once; said again before it was told, it is told once."""
        self._short[customer_id] = None
        self._wake.set()

    async def run(self, bus: Bus) -> None:
        """Tells spenders until cancelled."""
        while True:
            await self._wake.wait()
            named = list(self._short)[:MAX_NAMED]
            for customer_id in named:
                del self._short[customer_id]
            if not self._short:
                self._wake.clear()
            try:
                await bus.announce(
                    events.CREDITS_RECALLED, billing_pb2.CreditRecall(customer_ids=named).SerializeToString()
                )
            except TollbridgeError as error:
                self._log.warning("recall_not_sent", customers=len(named), code=error.code.value)
            await asyncio.sleep(PAUSE_S)
