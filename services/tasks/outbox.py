"""What has to leave tasks: written in the transaction of its cause, published after its commit, at least once.

Three kinds: `run` wakes a worker, `usage` moves money, `finished` tells whoever listens. A `usage` row is deleted only
when billing says that it has it (`Confirm`): what the bus lost is published again. The others are gone once published.

Rows stay locked while they are published, so of several replicas each row is published by one.
"""

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from psycopg.rows import dict_row
from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.db import Connection
from chassis.errors import TollbridgeError

Kind = Literal["run", "usage", "finished"]
BATCH = 100
PAUSE_S = 1.0
"""Between two looks when nothing happens here; other replicas' leftovers can wait that long."""
REPUBLISH_AFTER_S = 30.0
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One row."""

    number: int
    event_id: str
    kind: Kind
    task_id: str
    task_kind: str
    payload: bytes
    traceparent: str


async def add(conn: Connection, *, kind: Kind, task_id: str, payload: bytes, traceparent: str) -> None:
    """Puts one in, in the transaction of its cause."""
    await conn.execute(
        "INSERT INTO tasks.outbox (event_id, kind, task_id, payload, traceparent, made_at_us)"
        f" VALUES (%s, %s, %s, %s, %s, {_NOW})",
        (str(uuid.uuid4()), kind, task_id, payload, traceparent),
    )


async def take(conn: Connection, *, limit: int) -> list[Letter]:
    """The oldest that are not out, locked."""
    return await _letters(conn, "WHERE o.published_at_us = 0 ORDER BY o.number LIMIT %s", (limit,))


async def mark_out(conn: Connection, letters: Sequence[Letter]) -> None:
    """They are on the bus: usage waits for its confirmation, the rest is done."""
    usage = [letter.number for letter in letters if letter.kind == "usage"]
    await conn.execute(
        f"UPDATE tasks.outbox SET published_at_us = {_NOW}, times_published = times_published + 1"
        " WHERE number = ANY(%s)",
        (usage,),
    )
    await drop(conn, [letter for letter in letters if letter.kind != "usage"])


async def unconfirmed(conn: Connection, *, limit: int) -> list[Letter]:
    """Usage that is on the bus and that billing has not confirmed, locked: what it was asked longest ago first."""
    return await _letters(
        conn,
        "WHERE o.published_at_us > 0 AND o.kind = 'usage' ORDER BY o.asked_at_us, o.number LIMIT %s",
        (limit,),
    )


async def drop(conn: Connection, letters: Sequence[Letter]) -> None:
    """They have arrived."""
    await conn.execute("DELETE FROM tasks.outbox WHERE number = ANY(%s)", ([letter.number for letter in letters],))


async def put_back(conn: Connection, letters: Sequence[Letter]) -> None:
    """Billing doesn't have them: the others' turn is first, and what was published long ago is published again."""
    await conn.execute(
        f"UPDATE tasks.outbox SET asked_at_us = {_NOW},"
        f" published_at_us = CASE WHEN published_at_us < {_NOW} - %s THEN 0 ELSE published_at_us END"
        " WHERE number = ANY(%s)",
        (int(REPUBLISH_AFTER_S * 1_000_000), [letter.number for letter in letters]),
    )


class OutboxPublisher:
    """Two loops, owned by the process's lifecycle, that go on at their next turn when bus or database are away.

    `publish` sends a batch of letters; `committed` says of task ids which of them billing has settled.
    """

    def __init__(
        self,
        *,
        pool: db.Pool,
        publish: Callable[[Sequence[Letter]], Awaitable[None]],
        committed: Callable[[Sequence[Letter]], Awaitable[Sequence[bool]]],
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._publish = publish
        self._committed = committed
        self._log = log
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something was just put in."""
        self._wake.set()

    async def publish_once(self) -> int:
        """Publishes a batch and returns its size. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            letters = await take(conn, limit=BATCH)
            if letters:
                await self._publish(letters)
                await mark_out(conn, letters)
        return len(letters)

    async def confirm_once(self) -> int:
        """Drops what billing has, and returns how many still wait. Raises UNAVAILABLE."""
        async with db.transaction(self._pool) as conn:
            letters = await unconfirmed(conn, limit=BATCH)
            if not letters:
                return 0
            states = await self._committed(letters)
            missing = [letter for letter, done in zip(letters, states, strict=True) if not done]
            await drop(conn, [letter for letter, done in zip(letters, states, strict=True) if done])
            await put_back(conn, missing)
        return len(missing)

    async def run_publishing(self) -> None:
        """Publishes until cancelled."""
        while True:
            self._wake.clear()
            try:
                if await self.publish_once() == BATCH:
                    continue
            except TollbridgeError as error:
                self._log.warning("outbox_not_published", error=error.message)
                await asyncio.sleep(PAUSE_S)
            await self._pause()

    async def run_confirming(self) -> None:
        """Asks billing until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                await self.confirm_once()
            except TollbridgeError as error:
                self._log.warning("outbox_not_confirmed", error=error.message)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(PAUSE_S):
                await self._wake.wait()
        except TimeoutError:
            return


async def _letters(conn: Connection, where: str, arguments: tuple[Any, ...]) -> list[Letter]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT o.number, o.event_id, o.kind, o.task_id, t.kind AS task_kind, o.payload, o.traceparent"
            f" FROM tasks.outbox o JOIN tasks.tasks t ON t.id = o.task_id {where} FOR UPDATE OF o SKIP LOCKED",
            arguments,
        )
        rows = await cursor.fetchall()
    return [
        Letter(
            number=row["number"],
            event_id=str(row["event_id"]),
            kind=row["kind"],
            task_id=str(row["task_id"]),
            task_kind=row["task_kind"],
            payload=bytes(row["payload"]),
            traceparent=row["traceparent"],
        )
        for row in rows
    ]
