"""Delivering webhooks: each is tried until it is taken, with growing pauses, for a day at most.

Any replica may take what is due; it is then its own for KEEP_S, and whoever dies with it loses nothing but that time.
So a webhook may come twice, with one id. It goes to the URL that its customer has set at the time of the try.

A customer's webhooks go out one at a time, in the order of what they tell: the next when the one before was taken or
given up. One that was not taken holds up the later ones for HOLD_UP_S only, and nobody else's; after that they overtake
it, and `sequence` in the body tells the receiver.
"""

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.billing import store
from services.billing.alerts import alert_store
from services.billing.alerts.alert_store import Alert, Taken
from services.billing.alerts.at_rest import AtRestKeys, Unreadable
from services.billing.config import BillingConfig
from upstream.webhooks import Delivery, Webhook, send

AT_ONCE = 16
HOLD_UP_S = 180
"""Four tries long: a receiver that is down for a moment hears everything in order."""
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

    def __init__(
        self, *, pool: db.Pool, keys: AtRestKeys, config: Callable[[], BillingConfig], log: FilteringBoundLogger
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._config = config
        self._log = log
        self._under_way: dict[asyncio.Task[None], str] = {}

    async def run(self) -> None:
        """Delivers until cancelled, and the tries under way with it; trouble with the database is a pause."""
        looks = 0
        async with asyncio.TaskGroup() as tries:
            while True:
                is_full = False
                try:
                    if looks % FORGET_EVERY == 0:
                        await self.forget()
                    looks += 1
                    is_full = await self.look(tries)
                except (TollbridgeError, store.DatabaseError) as error:
                    self._log.warning("webhooks_delayed", reason=str(error))
                await self._pause(None if is_full else IDLE_PAUSE_S)

    async def _pause(self, longest_s: float | None) -> None:
        """Until a try ends, because what it held up is due then, or for `longest_s`."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(IDLE_PAUSE_S)

    async def look(self, tries: asyncio.TaskGroup) -> bool:
        """Starts tries of what is due while there are places; tells whether none is left. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as connection:
            taken = await alert_store.take(
                connection,
                limit=AT_ONCE - len(self._under_way),
                busy=list(self._under_way.values()),
                hold_up_s=HOLD_UP_S,
                keep_s=KEEP_S,
            )
            alerts = await alert_store.read(connection, {each.customer_id for each in taken})
        for each in taken:
            task = tries.create_task(self._try(each, alerts.get(each.customer_id)))
            self._under_way[task] = each.customer_id
            task.add_done_callback(self._under_way.pop)
        return len(self._under_way) == AT_ONCE

    async def _try(self, taken: Taken, alert: Alert | None) -> None:
        done = await self._send(taken, alert)
        pause_s = PAUSES_S[min(taken.tries, len(PAUSES_S)) - 1]
        gives_up = done.final or taken.age_s + pause_s > GIVE_UP_AFTER_S
        try:
            async with db.transaction(self._pool) as connection:
                if not done.problem or gives_up:
                    await alert_store.end(connection, taken.id, delivered=not done.problem, problem=done.problem)
                else:
                    await alert_store.postpone(connection, taken.id, pause_s=pause_s, problem=done.problem)
        except (TollbridgeError, store.DatabaseError) as error:  # it is due again after KEEP_S
            self._log.warning("webhook_not_noted", webhook_id=str(taken.id), reason=str(error))
        if done.problem:
            event = "webhook_given_up" if gives_up else "webhook_postponed"
            self._log.info(event, webhook_id=str(taken.id), customer_id=taken.customer_id, reason=done.problem)

    async def _send(self, taken: Taken, alert: Alert | None) -> Delivery:
        if alert is None or not alert.url:
            return Delivery(problem="the customer has no webhook", final=True)
        try:
            secret = self._keys.decrypted(alert.secret, owner=taken.customer_id)
        except Unreadable as error:  # another replica may have the key, or this one after its next start
            return Delivery(problem=str(error))
        webhook = Webhook(id=str(taken.id), url=alert.url, secret=secret, body=taken.body)
        return await send(webhook, allowed=self._config().webhook_networks)

    async def forget(self) -> None:
        """Drops some of those that ended KEPT_DAYS ago. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as connection:
            await alert_store.forget(connection, kept_days=KEPT_DAYS, limit=FORGET_AT_ONCE)
