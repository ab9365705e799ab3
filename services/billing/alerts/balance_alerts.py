"""Balance alerts: what a customer (or an operator for them) wants to hear about the balance, and where."""

import asyncio
import dataclasses
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from services.billing import store
from services.billing.alerts import alert_store
from services.billing.alerts.alert_store import Alert
from services.billing.alerts.at_rest import AtRestKeys, Unreadable
from services.billing.config import BillingConfig
from upstream.public_address import Forbidden, checked_url
from upstream.webhooks import new_secret

RENEW_EVERY_S = 600.0
"""Also how long a start waits: replicas that are being replaced need not know the newest key yet."""
RENEWED_AT_ONCE = 200


class BalanceAlerts:
    """Reads and changes them."""

    def __init__(self, *, pool: db.Pool, keys: AtRestKeys, config: Callable[[], BillingConfig]) -> None:
        self._pool = pool
        self._keys = keys
        self._config = config

    async def get(self, customer_id: str) -> Alert:
        """What holds now, the default line filled in. Raises NOT_FOUND for a customer without an account."""
        async with db.transaction(self._pool) as connection:
            return self._shown(await _read(connection, customer_id))

    async def set(self, customer_id: str, *, low_nano_usd: int | None, url: str, new_key: bool) -> tuple[Alert, str]:
        """Sets all of it; a secret is made with the first URL, and anew when that is asked for, and returned only then.

        Raises INVALID_REQUEST for a URL that we wouldn't call, NOT_FOUND.
        """
        if url:
            try:
                checked_url(url, allowed=self._config().webhook_networks)
            except Forbidden as error:
                raise TollbridgeError(
                    Code.INVALID_REQUEST, f"webhook_url is refused: {error}", details={"param": "webhook_url"}
                ) from None

        async def work(connection: Connection) -> tuple[Alert, str]:
            before = await _read(connection, customer_id)
            made = new_secret() if url and (new_key or not before.secret) else ""
            kept = self._keys.encrypted(made, owner=customer_id) if made else before.secret
            after = Alert(customer_id=customer_id, low_nano_usd=low_nano_usd, url=url, secret=kept)
            await alert_store.write(connection, after)
            return after, made

        after, made = await db.in_transaction(self._pool, work)
        return self._shown(after), made

    async def run(self, log: FilteringBoundLogger) -> None:
        """Until cancelled: brings what is kept in clear or under an old key under the newest, every ten minutes."""
        while self._keys.prefix:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                await self.renew_secrets(log)
            except (TollbridgeError, store.DatabaseError) as error:
                log.warning("secrets_not_renewed", reason=str(error))

    async def renew_secrets(self, log: FilteringBoundLogger) -> None:
        """One pass over all customers; who can't be read is told of and left. Raises UNAVAILABLE."""
        last = ""
        while True:
            async with db.transaction(self._pool) as connection:
                found = await alert_store.otherwise_kept(
                    connection, self._keys.prefix, after=last, limit=RENEWED_AT_ONCE
                )
                for customer_id, kept in found:
                    try:
                        secret = self._keys.decrypted(kept, owner=customer_id)
                    except Unreadable as error:
                        log.warning("secret_unreadable", customer_id=customer_id, reason=str(error))
                        continue
                    renewed = self._keys.encrypted(secret, owner=customer_id)
                    await alert_store.keep_otherwise(connection, customer_id, before=kept, after=renewed)
            if len(found) < RENEWED_AT_ONCE:
                return
            last = found[-1][0]

    def _shown(self, alert: Alert) -> Alert:
        if alert.low_nano_usd is not None:
            return alert
        return dataclasses.replace(alert, low_nano_usd=self._config().low_balance_nano_usd)


async def _read(connection: Connection, customer_id: str) -> Alert:
    found = await alert_store.read(connection, [customer_id])
    if customer_id in found:
        return found[customer_id]
    if await store.read_account(connection, customer_id) is None:
        raise TollbridgeError(Code.NOT_FOUND, "no such customer account")
    return Alert(customer_id=customer_id)
