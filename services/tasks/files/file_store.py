"""Files that jobs made, as the database knows them: whose, until when, and how much each customer has.

A customer's sums (`storage`) move in the same transaction as the files that they count. A file that was removed keeps
its row, so that it is known that there was one.
"""

import dataclasses
import secrets
from collections.abc import Sequence

from chassis.db import Connection
from services.tasks import job_sql
from services.tasks.files import leftovers
from services.tasks.job_sql import NOW, every, one
from services.tasks.jobs import ResultFile

SECRET_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a customer has."""

    bytes: int = 0
    files: int = 0


async def of_tasks(conn: Connection, task_ids: Sequence[str]) -> dict[str, tuple[ResultFile, ...]]:
    """The files of some jobs that are still there, in the order they were made."""
    found = await every(
        conn,
        "SELECT task_id, file_id, content_type, size_bytes, expires_at_us FROM tasks.results"
        " WHERE task_id = ANY(%s::uuid[]) AND removed_at_us = 0 ORDER BY task_id, position",
        (list(task_ids),),
    )
    files: dict[str, tuple[ResultFile, ...]] = {}
    for row in found:
        task_id = str(row["task_id"])
        files[task_id] = (*files.get(task_id, ()), job_sql.file(row))
    return files


async def with_owner(conn: Connection, file_id: str) -> tuple[ResultFile, str] | None:
    """A file that is still there, and whose it is."""
    row = await one(
        conn,
        "SELECT r.file_id, r.content_type, r.size_bytes, r.expires_at_us, t.customer_id FROM tasks.results r"
        f" JOIN tasks.tasks t ON t.id = r.task_id WHERE r.file_id = %s AND r.removed_at_us = 0"
        f" AND r.expires_at_us > {NOW}",
        (file_id,),
    )
    return None if row is None else (job_sql.file(row), str(row["customer_id"]))


async def add(
    conn: Connection, *, task_id: str, customer_id: str, files: Sequence[ResultFile], keep_s: float
) -> tuple[ResultFile, ...]:
    """Writes a job's files down, in the transaction that ends it; the same with their ends."""
    added = []
    for position, file in enumerate(files):
        row = await one(
            conn,
            "INSERT INTO tasks.results (file_id, task_id, position, content_type, size_bytes, expires_at_us)"
            f" VALUES (%s, %s, %s, %s, %s, {NOW} + %s) RETURNING expires_at_us",
            (file.file_id, task_id, position, file.content_type, file.size_bytes, job_sql.microseconds(keep_s)),
        )
        added.append(dataclasses.replace(file, expires_at_us=0 if row is None else row["expires_at_us"]))
    await leftovers.forget(conn, [file.file_id for file in files])
    await _count(conn, customer_id, size=sum(file.size_bytes for file in files), files=len(files))
    return tuple(added)


async def stored(conn: Connection, customer_id: str) -> Stored:
    """What a customer has now."""
    row = await one(conn, "SELECT bytes, files FROM tasks.storage WHERE customer_id = %s", (customer_id,))
    return Stored() if row is None else Stored(bytes=row["bytes"], files=row["files"])


async def to_remove(conn: Connection, *, limit: int) -> list[str]:
    """Files whose time is over, locked."""
    found = await every(
        conn,
        f"SELECT file_id FROM tasks.results WHERE removed_at_us = 0 AND expires_at_us <= {NOW}"
        " ORDER BY expires_at_us LIMIT %s FOR UPDATE SKIP LOCKED",
        (limit,),
    )
    return [str(row["file_id"]) for row in found]


async def removed(conn: Connection, file_ids: Sequence[str]) -> None:
    """They are to be cleared from the store: nobody is shown them any more, and nobody's sum has them."""
    found = await every(
        conn,
        f"UPDATE tasks.results r SET removed_at_us = {NOW} FROM tasks.tasks t"
        " WHERE t.id = r.task_id AND r.file_id = ANY(%s::uuid[]) AND r.removed_at_us = 0"
        " RETURNING r.file_id, t.customer_id, r.size_bytes",
        (list(file_ids),),
    )
    await leftovers.note(conn, [str(row["file_id"]) for row in found], clear_in_s=0.0)
    for customer_id in sorted({str(row["customer_id"]) for row in found}):
        sizes = [row["size_bytes"] for row in found if str(row["customer_id"]) == customer_id]
        await _count(conn, customer_id, size=-sum(sizes), files=-len(sizes))


async def link_secrets(conn: Connection) -> list[bytes]:
    """The secrets that sign links, newest first; the first of all is made when it is asked for."""
    found = await every(conn, "SELECT secret FROM tasks.link_secrets ORDER BY number DESC", ())
    if found:
        return [bytes(row["secret"]) for row in found]
    await conn.execute(
        "INSERT INTO tasks.link_secrets (number, secret) VALUES (1, %s) ON CONFLICT (number) DO NOTHING",
        (secrets.token_bytes(SECRET_BYTES),),
    )
    found = await every(conn, "SELECT secret FROM tasks.link_secrets ORDER BY number DESC", ())
    return [bytes(row["secret"]) for row in found]


async def _count(conn: Connection, customer_id: str, *, size: int, files: int) -> None:
    await conn.execute(
        "INSERT INTO tasks.storage AS s (customer_id, bytes, files) VALUES (%(customer)s, %(size)s, %(files)s)"
        " ON CONFLICT (customer_id) DO UPDATE SET bytes = s.bytes + %(size)s, files = s.files + %(files)s",
        {"customer": customer_id, "size": size, "files": files},
    )
