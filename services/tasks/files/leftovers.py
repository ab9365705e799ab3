"""Which bytes the store may have without a customer who has them: what is on its way into it, and on its way out.

A file is noted before it is stored, and the note goes in the transaction that makes it a customer's; a file that is
taken from a customer is noted in the transaction that does so. So whatever becomes of a process, of a claim or of the
store, what nobody can reach is removed in time.
"""

from collections.abc import Sequence

from chassis.db import Connection
from services.tasks.job_sql import NOW, every, microseconds

STORING_S = 7200.0
"""Longer than a job may take from its first claim to the end of its storing: by then it has ended."""
AGAIN_S = 60.0


async def note(conn: Connection, file_ids: Sequence[str], *, clear_in_s: float) -> None:
    """They may be in the store, and are nobody's; if that stays so, they are to be cleared."""
    await conn.execute(
        "INSERT INTO tasks.leftovers AS l (file_id, clear_at_us)"
        f" SELECT file_id, {NOW} + %s FROM unnest(%s::uuid[]) AS file_id"
        " ON CONFLICT (file_id) DO UPDATE SET clear_at_us = excluded.clear_at_us",
        (microseconds(clear_in_s), list(file_ids)),
    )


async def take(conn: Connection, *, limit: int) -> list[str]:
    """Some that are to be cleared; due again after a pause if nobody says that they are gone."""
    found = await every(
        conn,
        f"UPDATE tasks.leftovers l SET clear_at_us = {NOW} + %s WHERE l.file_id IN ("
        f"SELECT file_id FROM tasks.leftovers WHERE clear_at_us <= {NOW} ORDER BY clear_at_us"
        " LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING l.file_id",
        (microseconds(AGAIN_S), limit),
    )
    return [str(row["file_id"]) for row in found]


async def forget(conn: Connection, file_ids: Sequence[str]) -> None:
    """They are somebody's now, or gone."""
    await conn.execute("DELETE FROM tasks.leftovers WHERE file_id = ANY(%s::uuid[])", (list(file_ids),))
