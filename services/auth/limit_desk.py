"""Leases of limits over PostgreSQL: each method is one transaction of `limit_store`'s statements.

`run` is a loop that the process's lifecycle owns. Any number of replicas may run it: what one has swept, another finds
gone.
"""

import asyncio
import dataclasses
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.errors import TollbridgeError
from services.auth import limit_store
from services.auth.limit_store import Page
from services.auth.limit_windows import Kind, Outcome, Statement, settle

TTL_S = 30.0
SILENT_S = TTL_S + 5.0
"""A lease, and so much more for a statement to arrive."""
RENEW_IN_S = TTL_S / 3
SWEEP_EVERY_S = 4.0
FORGOTTEN_AT_ONCE = 10_000
OUTCOMES = ("granted", "partly", "refused")
"""Of an ask that needed something: all of it, some, none."""


@dataclasses.dataclass(slots=True)
class Figures:
    """What this replica answered, and what was held over all replicas when it last looked."""

    asks: Counter[tuple[Kind, str]] = dataclasses.field(default_factory=Counter)
    """Of those that needed something, by kind and outcome."""
    held: Mapping[Kind, int] = dataclasses.field(default_factory=dict)
    ended_spenders: int = 0


class LimitDesk:
    """What spenders of limits say and ask."""

    def __init__(self, *, pool: db.Pool, log: FilteringBoundLogger) -> None:
        self._pool = pool
        self._log = log
        self.figures = Figures()

    async def lease(
        self, said: Sequence[Statement], *, spender: uuid.UUID, subject: uuid.UUID, since: int, number: int
    ) -> list[Outcome]:
        """Settles what one spender says about one subject. Raises UNAVAILABLE."""

        async def work(connection: db.Connection) -> list[Outcome]:
            found = await limit_store.read_books(
                connection, spender=spender, subject=subject, kinds=[one.kind for one in said]
            )
            outcomes = [settle(found.books[one.kind], one, since=since, number=number) for one in said]
            new = [one for one in outcomes if one.is_new]
            if new:
                await limit_store.write(connection, new, spender=spender, subject=subject, found=found)
            return outcomes

        outcomes = await db.in_transaction(self._pool, work)
        for one, outcome in zip(said, outcomes, strict=True):
            if one.needed:
                self.figures.asks[one.kind, _told(one, outcome)] += 1
        return outcomes

    async def state(self, page: Page) -> None:
        """Takes a page of a spender's statement. Raises UNAVAILABLE."""
        await db.in_transaction(self._pool, lambda connection: limit_store.state(connection, page))

    async def end(self, spender: uuid.UUID) -> None:
        """Frees what a spender held that is over. Raises UNAVAILABLE."""
        leases = await db.in_transaction(self._pool, lambda connection: limit_store.end_spender(connection, spender))
        self.figures.ended_spenders += 1
        self._log.info("limit_spender_ended", spender=str(spender), leases=leases)

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.sweep()
            except TollbridgeError as error:
                self._log.warning("limits_not_swept", error=error.message)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> None:
        """Ends spenders that have fallen silent. Raises UNAVAILABLE.

        Nobody is called silent before they could have spoken for a whole lease: after the first start, and after a time
        without a database or without any replica.
        """
        if await db.in_transaction(self._pool, limit_store.listens_since_s) >= SILENT_S:
            for spender in await db.in_transaction(self._pool, _silent):
                await self._expire(spender)
        self.figures.held = await db.in_transaction(self._pool, limit_store.units_held)

    async def forget_old(self) -> None:
        """Deletes the counts of idle subjects that no longer count. Raises UNAVAILABLE."""
        forgotten = FORGOTTEN_AT_ONCE
        while forgotten == FORGOTTEN_AT_ONCE:
            forgotten = await db.in_transaction(self._pool, _forget)

    async def _expire(self, spender: uuid.UUID) -> None:
        leases = await db.in_transaction(
            self._pool, lambda connection: limit_store.expire_silent(connection, spender, silent_s=SILENT_S)
        )
        if leases:
            self.figures.ended_spenders += 1
            self._log.warning("limits_of_silent_spender_freed", spender=str(spender), leases=leases)


async def _silent(connection: db.Connection) -> list[uuid.UUID]:
    return await limit_store.silent_spenders(connection, silent_s=SILENT_S)


async def _forget(connection: db.Connection) -> int:
    return await limit_store.forget_counts(connection, at_most=FORGOTTEN_AT_ONCE)


def _told(said: Statement, outcome: Outcome) -> str:
    """One of OUTCOMES."""
    if not outcome.retry_after_ms:
        return "granted"
    return "partly" if outcome.lease.held > said.open else "refused"
