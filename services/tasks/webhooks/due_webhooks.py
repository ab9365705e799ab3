"""Tasks' webhooks that are due, for the loop that delivers them (`upstream/webhook_deliveries.py`)."""

from collections.abc import Callable, Sequence
from functools import partial

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks.webhooks import webhook_store
from services.tasks.webhooks.webhook_secrets import WebhookSecrets
from services.tasks.webhooks.webhook_store import Taken
from upstream.public_address import Network
from upstream.webhooks import Delivery, Webhook, send


class DueWebhooks:
    """The oldest of each customer that is due."""

    def __init__(self, *, pool: db.Pool, secrets: WebhookSecrets, allowed: Callable[[], Sequence[Network]]) -> None:
        self._pool = pool
        self._secrets = secrets
        self._allowed = allowed

    async def take(self, *, limit: int, busy: Sequence[str], keep_s: int) -> Sequence[Taken]:
        """Some that are due, one of each customer who is not in `busy`; nobody else takes them within `keep_s`."""
        take = partial(webhook_store.take, limit=limit, busy=busy, keep_s=keep_s)
        return await db.in_transaction(self._pool, take)

    async def send(self, taken: Taken) -> Delivery:
        """Tries once."""
        try:
            secret = self._secrets.of(taken.customer_id, taken.secret)
        except TollbridgeError as error:  # another process may have the key, or this one after its next start
            return Delivery(problem=error.message)
        webhook = Webhook(id=taken.id, url=taken.url, secret=secret, body=taken.body)
        return await send(webhook, allowed=self._allowed())

    async def end(self, taken: Taken, *, problem: str) -> None:
        """It was taken, or (with a problem) is given up."""
        await db.in_transaction(self._pool, partial(webhook_store.end, webhook_id=taken.id, problem=problem))

    async def postpone(self, taken: Taken, *, pause_s: int, problem: str) -> None:
        """It is due again after a pause."""
        postpone = partial(webhook_store.postpone, webhook_id=taken.id, pause_s=pause_s, problem=problem)
        await db.in_transaction(self._pool, postpone)

    async def forget(self, *, kept_days: int, limit: int) -> None:
        """Drops some of those that ended so long ago."""
        await db.in_transaction(self._pool, partial(webhook_store.forget, kept_days=kept_days, limit=limit))
