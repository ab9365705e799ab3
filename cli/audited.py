"""Commands that write to the database by themselves, in the audit log: before they do, and how they ended.

What cannot be written down is not done, as with the admin API: the database's user has to be let into the roles of auth
and of billing. A command that breaks has no outcome in the log.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chassis.errors import TollbridgeError
from chassis.ids import uuid7
from cli.running import NotRunning, find_database

if TYPE_CHECKING:
    from services.auth.audit import AuditLog

NOT_WRITTEN = 2
MIN_POOL_WAIT_S = 10.0
LONGEST_ACTOR = 100


def audited(
    data_dir: Path | None, command: str, parameters: Mapping[str, object], run: Callable[[], int], *, by: str = ""
) -> int:
    """Runs a command that changes something, and returns its exit status; 2 when it can't be written down."""
    import psycopg

    from services.auth.audit_store import Action, Outcome

    trouble = (TollbridgeError, NotRunning, OSError, psycopg.Error)

    action_id = uuid7()
    action = Action(
        id=action_id,
        actor=f"cli:{by or os.environ.get('USER') or os.getuid()}"[:LONGEST_ACTOR],
        address="",
        method="COMMAND",
        path=command,
        parameters=json.dumps({name: value for name, value in parameters.items() if value}),
    )
    try:
        _with_log(data_dir, lambda log: log.begin(action))
    except trouble as error:
        print(f"the audit log can't be written, so nothing was done: {error}", file=sys.stderr)
        return NOT_WRITTEN
    status = run()
    try:
        _with_log(data_dir, lambda log: log.end(action_id, Outcome(status=status, code="")))
    except trouble as error:
        print(f"how this ended is missing in the audit log: {error}", file=sys.stderr)
    return status


def _with_log(data_dir: Path | None, work: "Callable[[AuditLog], Awaitable[None]]") -> None:
    from chassis import db
    from services.auth.audit import AuditLog

    async def connected(url: str) -> None:
        pool = await db.open_pool(url, role="auth")
        try:
            await pool.wait(MIN_POOL_WAIT_S)
            await work(AuditLog(pool=pool))
        finally:
            await pool.close()

    asyncio.run(connected(find_database(data_dir)))
