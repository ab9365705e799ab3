"""What operators do, written down before it is done, and how it ended, afterwards.

An action is known by its id, so that writing it down twice is once. Nothing written is ever changed: the database
refuses it. Secrets have no place here: whoever tells of an action leaves them out, and what looks like one of our keys
is taken out here, wherever it stands.
"""

import dataclasses
import re
import time
import uuid
from collections.abc import Callable

from chassis import db
from services.auth import audit_store
from services.auth.api_keys import CHECKSUM_LENGTH, MAX_PREFIX_LENGTH, SECRET_LENGTH, is_well_formed
from services.auth.audit_store import Action, Outcome, Recorded, Wanted

PAGE = 50
MAX_PAGE = 200
HIDDEN = "(hidden)"
_SHORTEST = SECRET_LENGTH + CHECKSUM_LENGTH
_LONGEST = MAX_PREFIX_LENGTH + _SHORTEST
_TAILS = re.compile(r"[0-9A-Za-z]{43,}")


class AuditLog:
    """The log over PostgreSQL; every method is one transaction and raises UNAVAILABLE when there is no database."""

    def __init__(self, *, pool: db.Pool, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._pool = pool
        self._now_us = now_us

    async def begin(self, action: Action) -> None:
        """Writes an action down, its time by our clock; once, however often it is asked for."""
        clean = dataclasses.replace(
            action,
            at_us=self._now_us(),
            path=without_keys(action.path),
            parameters=without_keys(action.parameters),
        )

        async def work(conn: db.Connection) -> None:
            await audit_store.insert_action(conn, clean)

        await db.in_transaction(self._pool, work)

    async def end(self, action_id: uuid.UUID, outcome: Outcome) -> None:
        """Writes down how it ended; the first outcome stays. One of an action that nobody began is left out."""
        dated = dataclasses.replace(outcome, at_us=self._now_us())

        async def work(conn: db.Connection) -> None:
            await audit_store.insert_outcome(conn, action_id, dated)

        await db.in_transaction(self._pool, work)

    async def page(self, wanted: Wanted) -> tuple[list[Recorded], bool]:
        """Actions, newest first, and whether there are older ones."""
        limit = min(wanted.limit or PAGE, MAX_PAGE)

        async def work(conn: db.Connection) -> list[Recorded]:
            return await audit_store.actions(conn, dataclasses.replace(wanted, limit=limit + 1))

        found = await db.in_transaction(self._pool, work)
        return found[:limit], len(found) > limit


def without_keys(text: str) -> str:
    """The text without what could be one of our keys, whatever stands before it."""
    kept, done = [], 0
    for run in _TAILS.finditer(text):
        end = run.end()
        for start in range(max(done, end - _LONGEST), end - _SHORTEST + 1):
            if is_well_formed(text[start:end]):
                kept += [text[done:start], HIDDEN]
                done = end
                break
    return "".join(kept) + text[done:]
