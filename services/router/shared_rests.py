"""What one replica learns of accounts the others know within two seconds, and a starting one before it decides.

One small transaction a second, whatever the load: it writes what has changed here, if anything has, and reads all rows.
Without a database each replica goes by what it learns itself, and tells it afterwards.
"""

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable

import structlog

from chassis.db import Connection, Pool, in_transaction
from chassis.errors import TollbridgeError
from services.router import rest_rows
from services.router.breaker import Breaker
from services.router.registry import Account, Registry
from services.router.rest_rows import Row

EVERY_S = 1.0


class SharedRests:
    """Tells and hears. `run` is a task of its owner's."""

    def __init__(
        self, *, pool: Pool, breaker: Breaker, registry: Callable[[], Registry], clock: Callable[[], float]
    ) -> None:
        self._pool, self._breaker, self._registry, self._clock = pool, breaker, registry, clock
        self._heard: dict[str, int] = {}
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Exchanges what is known each second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.exchange()

    async def know(self) -> None:
        """What is known at the start. A credential that was refused is tried at once: who restarts may have paid."""
        await self.exchange(is_start=True)

    async def exchange(self, *, is_start: bool = False) -> None:
        """Tells what was learnt here and hears the rest."""
        accounts = self._registry().accounts
        told = [rest for rest in self._breaker.untold(now_s=self._clock()) if rest.account_id in accounts]
        rows = [Row(rest=rest, credential_mark=_mark(accounts[rest.account_id])) for rest in told]

        async def work(connection: Connection) -> tuple[dict[str, int], list[Row]]:
            written = await rest_rows.write(connection, rows) if rows else {}
            return written, await rest_rows.read(connection)

        try:
            written, found = await in_transaction(self._pool, work)
        except TollbridgeError as error:
            self._breaker.tell_again(told)
            self._log.warning("rests_not_shared", code=error.code.value)
            return
        for row in found:
            account = self._registry().accounts.get(row.rest.account_id)
            if account is None or _mark(account) != row.credential_mark:
                continue
            former = self._heard.get(account.id, 0)
            self._heard[account.id] = row.revision
            is_ours = written.get(account.id) == row.revision
            is_echo = is_ours and row.revision == former + 1
            if former != row.revision and not is_echo:
                is_tried = is_start and row.rest.is_broken
                rest = dataclasses.replace(row.rest, rests_for_s=0.0) if is_tried else row.rest
                self._breaker.hear(rest, now_s=self._clock(), is_ours=is_ours)


def _mark(account: Account) -> str:
    """Tells credentials of an account apart, and nothing else about them."""
    return hashlib.sha256(account.api_key.encode()).hexdigest()[:16]
