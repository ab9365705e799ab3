"""Webhooks as those see them who order jobs: where they may go, and what they are signed with."""

from collections.abc import Callable, Sequence

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.tasks.jobs import Order
from services.tasks.webhooks import webhook_store
from services.tasks.webhooks.webhook_secrets import WebhookSecrets
from upstream.public_address import Forbidden, Network, checked_url


class Webhooks:
    """`allowed` are the private networks that they may go to."""

    def __init__(self, *, pool: db.Pool, secrets: WebhookSecrets, allowed: Callable[[], Sequence[Network]]) -> None:
        self._pool = pool
        self._secrets = secrets
        self._allowed = allowed

    def check(self, url: str) -> None:
        """Raises INVALID_REQUEST for a URL that we wouldn't call. An empty one is none."""
        if not url:
            return
        try:
            if not self._secrets.newest:
                raise Forbidden("this gateway has no key to sign webhooks with")
            checked_url(url, allowed=self._allowed())
        except Forbidden as error:
            message = f"webhook_url is refused: {error}."
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "webhook_url"}) from None

    async def expect(self, conn: db.Connection, order: Order) -> None:
        """Sees to it that there is a secret once the webhook of an accepted order is due."""
        if order.webhook_url:
            newest = self._secrets.newest
            await webhook_store.secret_of(conn, order.customer_id, newest_key=newest, renew=False)

    async def secret(self, customer_id: str, *, renew: bool) -> str:
        """What a customer's webhooks are signed with; `renew` makes another. Raises NOT_FOUND without a key."""
        newest = self._secrets.newest
        if not newest:
            raise TollbridgeError(Code.NOT_FOUND, "This gateway has no key to sign webhooks with.")
        async with db.transaction(self._pool) as conn:
            name = await webhook_store.secret_of(conn, customer_id, newest_key=newest, renew=renew)
        return self._secrets.of(customer_id, name)
