"""Delivering tasks' webhooks: each is tried until it is taken, with growing pauses, for a day at most.

Any process may take what is due; it is then its own for KEEP_S, and whoever dies with it loses nothing but that time.
So a webhook may come twice, with one id. A customer has one try under way at a time in each process: who is slow to
answer holds up nobody but themselves. Sending is `upstream/webhooks.py`, as for billing's.
"""

import asyncio
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.tasks.webhooks import webhook_store
from services.tasks.webhooks.webhook_secrets import WebhookSecrets
from services.tasks.webhooks.webhook_store import Taken
from upstream.public_address import Network
from upstream.webhooks import Delivery, Webhook, send

AT_ONCE = 16
KEEP_S = 60.0
"""Longer than a try can take."""
LOOK_S = 1.0
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 14_400, 14_400, 14_400)
GIVE_UP_AFTER_S = 86_400.0
KEPT_S = 30 * 86_400.0
FORGET_EVERY = 3600
FORGET_AT_ONCE = 1000


class WebhookDeliveries:
    """The loop that delivers."""

    def __init__(
        self,
        *,
        pool: db.Pool,
        secrets: WebhookSecrets,
        allowed: Callable[[], Sequence[Network]],
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._secrets = secrets
        self._allowed = allowed
        self._log = log
        self._under_way: dict[asyncio.Task[None], str] = {}

    async def run(self) -> None:
        """Delivers until cancelled, and the tries under way with it; trouble with the database is a pause."""
        looks = 0
        async with asyncio.TaskGroup() as tries:
            while True:
                try:
                    if looks % FORGET_EVERY == 0:
                        await self._forget()
                    looks += 1
                    await self.look(tries)
                except TollbridgeError as error:
                    self._log.warning("webhooks_delayed", reason=error.message)
                await self._pause()

    async def look(self, tries: asyncio.TaskGroup) -> None:
        """Starts tries of what is due while there are places. Raises UNAVAILABLE."""
        places = AT_ONCE - len(self._under_way)
        if not places:
            return
        async with db.transaction(self._pool) as conn:
            busy = list(self._under_way.values())
            taken = await webhook_store.take(conn, limit=places, busy=busy, keep_s=KEEP_S)
        for each in taken:
            task = tries.create_task(self._try(each))
            self._under_way[task] = each.customer_id
            task.add_done_callback(self._under_way.pop)

    async def _pause(self) -> None:
        """Until a try ends, because its customer's next may be due then, or for LOOK_S."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(LOOK_S)

    async def _try(self, taken: Taken) -> None:
        done = await self._send(taken)
        pause_s = PAUSES_S[min(taken.tries, len(PAUSES_S)) - 1]
        gives_up = done.final or taken.age_s + pause_s > GIVE_UP_AFTER_S
        try:
            async with db.transaction(self._pool) as conn:
                if not done.problem or gives_up:
                    await webhook_store.end(conn, taken.id, problem=done.problem)
                else:
                    await webhook_store.postpone(conn, taken.id, pause_s=pause_s, problem=done.problem)
        except TollbridgeError as error:  # it is due again after KEEP_S
            self._log.warning("webhook_not_noted", webhook_id=taken.id, reason=error.message)
        if done.problem:
            event = "webhook_given_up" if gives_up else "webhook_postponed"
            self._log.info(event, webhook_id=taken.id, customer_id=taken.customer_id, reason=done.problem)

    async def _send(self, taken: Taken) -> Delivery:
        try:
            secret = self._secrets.of(taken.customer_id, taken.secret)
        except TollbridgeError as error:  # another process may have the key, or this one after its next start
            return Delivery(problem=error.message)
        webhook = Webhook(id=taken.id, url=taken.url, secret=secret, body=taken.body)
        return await send(webhook, allowed=self._allowed())

    async def _forget(self) -> None:
        async with db.transaction(self._pool) as conn:
            await webhook_store.forget(conn, kept_s=KEPT_S, limit=FORGET_AT_ONCE)
