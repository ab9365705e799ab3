"""Delivering webhooks: each is tried until it is taken, with growing pauses, for a day at most.

Any replica may take what is due; it is then its own for KEEP_S, and whoever dies with it loses nothing but that time.
So a webhook may come twice, with one id. It goes to the URL that its customer has set at the time of the try.
"""

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.billing import alert_store, store
from services.billing.alert_store import Alert, Taken
from services.billing.config import BillingConfig
from upstream.webhooks import Delivery, Webhook, send

AT_ONCE = 16
KEEP_S = 60
"""Longer than a try can take."""
IDLE_PAUSE_S = 1.0
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 14_400, 14_400, 14_400)
GIVE_UP_AFTER_S = 86_400
KEPT_DAYS = 30
FORGET_EVERY = 3600
FORGET_AT_ONCE = 1000


class WebhookDeliveries:
    """The loop that delivers."""

    def __init__(self, *, pool: db.Pool, config: Callable[[], BillingConfig], log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._config = config
        self._log = log

    async def run(self) -> None:
        """Delivers until cancelled; trouble with the database is a pause."""
        looks = 0
        while True:
            try:
                if looks % FORGET_EVERY == 0:
                    await self.forget()
                looks += 1
                taken = await self.look()
            except (TollbridgeError, store.DatabaseError) as error:
                self._log.warning("webhooks_delayed", reason=str(error))
                taken = 0
            if taken < AT_ONCE:
                await asyncio.sleep(IDLE_PAUSE_S)

    async def look(self) -> int:
        """Tries what is due, some at once; returns how many. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as connection:
            taken = await alert_store.take(connection, limit=AT_ONCE, keep_s=KEEP_S)
            alerts = await alert_store.read(connection, {each.customer_id for each in taken})
        async with asyncio.TaskGroup() as group:
            for each in taken:
                group.create_task(self._try(each, alerts.get(each.customer_id)))
        return len(taken)

    async def _try(self, taken: Taken, alert: Alert | None) -> None:
        done = Delivery(problem="the customer has no webhook", final=True)
        if alert is not None and alert.url:
            webhook = Webhook(id=str(taken.id), url=alert.url, secret=alert.secret, body=taken.body)
            done = await send(webhook, allowed=self._config().webhook_networks)
        pause_s = PAUSES_S[min(taken.tries, len(PAUSES_S)) - 1]
        gives_up = done.final or taken.age_s + pause_s > GIVE_UP_AFTER_S
        try:
            async with db.transaction(self._pool) as connection:
                if not done.problem or gives_up:
                    await alert_store.end(connection, taken.id, delivered=not done.problem, problem=done.problem)
                else:
                    await alert_store.postpone(connection, taken.id, pause_s=pause_s, problem=done.problem)
        except TollbridgeError as error:  # it is due again after KEEP_S
            self._log.warning("webhook_not_noted", webhook_id=str(taken.id), reason=error.message)
        if done.problem:
            event = "webhook_given_up" if gives_up else "webhook_postponed"
            self._log.info(event, webhook_id=str(taken.id), customer_id=taken.customer_id, reason=done.problem)

    async def forget(self) -> None:
        """Drops some of those that ended KEPT_DAYS ago. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as connection:
            await alert_store.forget(connection, kept_days=KEPT_DAYS, limit=FORGET_AT_ONCE)
