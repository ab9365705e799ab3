"""Balance webhooks that are due, for the loop that delivers them (`upstream/webhook_deliveries.py`).

One goes to the URL that its customer has set at the time of the try. A customer's webhooks go out one at a time, in the
order of what they tell: the next when the one before was taken or given up. One that was not taken holds up the later
ones for HOLD_UP_S only, and nobody else's; after that they overtake it, and `sequence` in the body tells the receiver.
"""

from collections.abc import Callable, Sequence
from functools import partial

from chassis import db
from services.billing.alerts import alert_store
from services.billing.alerts.alert_store import Taken
from services.billing.alerts.at_rest import AtRestKeys, Unreadable
from services.billing.config import BillingConfig
from upstream.webhooks import Delivery, Webhook, send

HOLD_UP_S = 180
"""Four tries long: a receiver that is down for a moment hears everything in order."""


class DueWebhooks:
    """The first of each customer that is not held up."""

    def __init__(self, *, pool: db.Pool, keys: AtRestKeys, config: Callable[[], BillingConfig]) -> None:
        self._pool = pool
        self._keys = keys
        self._config = config

    async def take(self, *, limit: int, busy: Sequence[str], keep_s: int) -> Sequence[Taken]:
        """Some that are due, one of each customer who is not in `busy`; nobody else takes them within `keep_s`."""
        async with db.transaction(self._pool, alone=True) as connection:
            if not await alert_store.is_due(connection):
                return ()
        take = partial(alert_store.take, limit=limit, busy=busy, hold_up_s=HOLD_UP_S, keep_s=keep_s)
        return await db.in_transaction(self._pool, take)

    async def send(self, taken: Taken) -> Delivery:
        """Tries once."""
        if not taken.url:
            return Delivery(problem="the customer has no webhook", final=True)
        try:
            secret = self._keys.decrypted(taken.secret, owner=taken.customer_id)
        except Unreadable as error:  # another replica may have the key, or this one after its next start
            return Delivery(problem=str(error))
        webhook = Webhook(id=str(taken.id), url=taken.url, secret=secret, body=taken.body)
        return await send(webhook, allowed=self._config().webhook_networks)

    async def end(self, taken: Taken, *, problem: str) -> None:
        """It was taken, or (with a problem) is given up."""
        await db.in_transaction(self._pool, partial(alert_store.end, id_=taken.id, problem=problem))

    async def postpone(self, taken: Taken, *, pause_s: int, problem: str) -> None:
        """It is due again after a pause."""
        postpone = partial(alert_store.postpone, id_=taken.id, pause_s=pause_s, problem=problem)
        await db.in_transaction(self._pool, postpone)

    async def forget(self, *, kept_days: int, limit: int) -> None:
        """Drops some of those that ended so long ago."""
        await db.in_transaction(self._pool, partial(alert_store.forget, kept_days=kept_days, limit=limit))
