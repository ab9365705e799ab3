"""Carries changes of keys and customers to every replica: by polling for certain, by the bus sooner.

Three loops, each owned by the process's lifecycle: `ChangePoll.run` asks the database three times a second for what
is new, and with each answer confirms what is kept; `ChangeOutbox.run` publishes what no replica has published yet;
`on_message` takes what others published. A loop that meets a database or bus that is away goes on at its next turn.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from google.protobuf.message import DecodeError
from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.auth import events, store
from services.auth.kept_keys import KeptKeys

POLL_S = 0.3
"""Three polls within the second that revocation may take."""
OUTBOX_S = 1.0
"""Between two looks at the outbox when nothing happens here; other replicas' leftovers can wait that long."""
BATCH = 500


class ChangePoll:
    """Keeps `kept` true by polling."""

    def __init__(
        self, *, pool: db.Pool, kept: KeptKeys, log: FilteringBoundLogger, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._kept = kept
        self._log = log
        self._clock_s = clock_s
        self._seen: int | None = None

    async def poll(self) -> None:
        """Drops what changed since the last poll. Raises UNAVAILABLE without a database, and then confirms nothing."""
        started_at_s = self._clock_s()
        if self._seen is None:
            self._seen = await self._last()
            self._kept.clear()
        changes = await self._after(self._seen)
        for change in changes:
            self._kept.drop(key_id=change.key_id, customer_id=change.customer_id)
        if len(changes) == BATCH:
            self._kept.clear()  # more than can be told one by one; nothing kept is worth the time
            self._seen = await self._last()
            return
        if changes:
            self._seen = changes[-1].number
        self._kept.confirm(polled_at_s=started_at_s)

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            try:
                await self.poll()
            except TollbridgeError as error:
                self._log.warning("changes_not_polled", error=error.message)
            await asyncio.sleep(POLL_S)

    async def _last(self) -> int:
        async with db.transaction(self._pool) as conn:
            return await store.last_change(conn)

    async def _after(self, number: int) -> list[store.Change]:
        async with db.transaction(self._pool) as conn:
            return await store.changes_after(conn, number, limit=BATCH)


class ChangeOutbox:
    """Publishes changes after their commit, each at least once while a bus is there.

    `kept` of this replica forgets them first: an edge that hears of a change asks again at once, and must not be told
    what was true before.
    """

    def __init__(
        self,
        *,
        pool: db.Pool,
        kept: KeptKeys,
        announce: Callable[[bytes], Awaitable[None]],
        changed: asyncio.Event,
        log: FilteringBoundLogger,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pool = pool
        self._kept = kept
        self._announce = announce
        self._changed = changed
        self._log = log
        self._now_us = now_us

    async def publish(self) -> int:
        """Publishes one batch and returns its size. The rows stay locked meanwhile, so one replica does it."""
        async with db.transaction(self._pool) as conn:
            changes = await store.changes_to_publish(conn, limit=BATCH)
            if changes:
                for change in changes:
                    self._kept.drop(key_id=change.key_id, customer_id=change.customer_id)
                await self._announce(events.encode(changes))
                await store.mark_published(conn, [c.number for c in changes], now_us=self._now_us())
        return len(changes)

    async def run(self) -> None:
        """Publishes until cancelled: at once after a change of this replica, else every second."""
        while True:
            self._changed.clear()
            try:
                full = await self.publish() == BATCH
            except TollbridgeError as error:
                full = False
                self._log.warning("changes_not_published", error=error.message)
                await asyncio.sleep(OUTBOX_S)
            if not full:
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(OUTBOX_S):
                await self._changed.wait()
        except TimeoutError:
            return


def on_message(kept: KeptKeys, log: FilteringBoundLogger) -> Callable[[bytes], Awaitable[None]]:
    """Makes the handler of the bus's messages: it drops what they name."""

    async def handle(data: bytes) -> None:
        try:
            pairs = events.decode(data)
        except DecodeError:
            log.warning("keys_message_unreadable", size=len(data))
            kept.clear()
            return
        for key_id, customer_id in pairs:
            kept.drop(key_id=key_id, customer_id=customer_id)

    return handle
