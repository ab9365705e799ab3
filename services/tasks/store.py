"""Jobs, as they are made, read and ended; `claim_store.py` has what workers do with them.

Every function gets the connection that it works on; who opens the transaction decides its extent. Every move of a job
is one UPDATE that names the states it may start from (`jobs.sources`): of two at once one wins.
"""

import dataclasses
from collections.abc import Sequence

from chassis.db import Connection
from services.tasks import job_sql, jobs
from services.tasks.files import file_store
from services.tasks.job_sql import JOB, NOW, every, one
from services.tasks.jobs import NOTHING_USED, Job, Move, Order, ResultFile, Status, Used

BRIEFLY_S = 5.0
"""Whoever took a job on has that long to have its hold kept."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A job, and the digest of the request that ordered it."""

    job: Job
    fingerprint: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a job ended."""

    move: Move
    charge_nano_usd: int = 0
    error_code: str = ""
    error_message: str = ""
    results: tuple[ResultFile, ...] = ()
    keep_s: float = 0.0
    used: Used = NOTHING_USED


# Reading


async def accepted(conn: Connection, task_id: str) -> Accepted | None:
    """One job with its results and its request's digest."""
    row = await one(conn, f"SELECT {JOB}, t.fingerprint FROM tasks.tasks t WHERE t.id = %s", (task_id,))
    if row is None:
        return None
    files = await file_store.of_tasks(conn, [task_id])
    return Accepted(job=job_sql.job(row, files.get(task_id, ())), fingerprint=bytes(row["fingerprint"]))


async def job(conn: Connection, task_id: str) -> Job | None:
    """One job with its results."""
    found = await accepted(conn, task_id)
    return None if found is None else found.job


async def shown(conn: Connection, task_ids: Sequence[str]) -> dict[str, bytes]:
    """What of some orders their customers are shown, as JSON; those of which it was not kept are left out."""
    found = await every(
        conn, "SELECT id, shown FROM tasks.tasks WHERE id = ANY(%s::uuid[]) AND shown <> ''", (list(task_ids),)
    )
    return {str(row["id"]): bytes(row["shown"]) for row in found}


async def body(conn: Connection, task_id: str) -> bytes:
    """What was ordered, while it is kept."""
    row = await one(conn, "SELECT body FROM tasks.tasks WHERE id = %s", (task_id,))
    return b"" if row is None else bytes(row["body"])


async def version(conn: Connection, task_id: str) -> tuple[int, bool]:
    """A job's version, and whether it is over or unknown: what a waiting caller looks at."""
    row = await one(conn, "SELECT t.version, t.status FROM tasks.tasks t WHERE t.id = %s", (task_id,))
    return (0, True) if row is None else (row["version"], Status(row["status"]).ended)


async def jobs_of(
    conn: Connection,
    customer_id: str,
    *,
    after: str | None,
    limit: int,
    kind: str = "",
    oldest_first: bool = False,
    without_deleted: bool = False,
) -> list[Job]:
    """A customer's jobs beyond `after`, newest first, of one kind or of all."""
    beyond, order = (">", "ASC") if oldest_first else ("<", "DESC")
    found = await every(
        conn,
        f"SELECT {JOB} FROM tasks.tasks t WHERE t.customer_id = %(customer)s"
        + (" AND t.kind = %(kind)s" if kind else "")
        + (" AND t.deleted_at_us = 0" if without_deleted else "")
        + (f" AND t.id {beyond} %(after)s::uuid" if after else "")
        + f" ORDER BY t.id {order} LIMIT %(limit)s",
        {"customer": customer_id, "after": after, "limit": limit, "kind": kind},
    )
    files = await file_store.of_tasks(conn, [str(row["id"]) for row in found])
    return [job_sql.job(row, files.get(str(row["id"]), ())) for row in found]


async def delete(conn: Connection, task_id: str) -> None:
    """Notes that its customer deleted it; the first time counts."""
    await conn.execute(
        f"UPDATE tasks.tasks SET deleted_at_us = {NOW} WHERE id = %s AND deleted_at_us = 0",
        (task_id,),
    )


# Moves


async def insert(conn: Connection, order: Order, *, fingerprint: bytes) -> bool:
    """Stores a job as pending; False when that id is taken."""
    made = await conn.execute(
        "INSERT INTO tasks.tasks (id, customer_id, key_id, kind, model, body, fingerprint, price_version, hold_id,"
        " hold_nano_usd, traceparent, webhook_url, files_url, shown, held_briefly, created_at_us, deadline_us)"
        f" SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {NOW}, {NOW} + %s"
        " ON CONFLICT (id) DO NOTHING",
        (
            order.id,
            order.customer_id,
            order.key_id,
            order.kind,
            order.model,
            order.body,
            fingerprint,
            order.price_version,
            order.hold_id,
            order.hold_nano_usd,
            order.traceparent,
            order.webhook_url,
            order.files_url,
            order.shown,
            order.is_held,
            job_sql.microseconds(order.time_to_live_s),
        ),
    )
    return made.rowcount == 1


async def mark_held(conn: Connection, task_id: str) -> None:
    """Its hold outlives it now, or there is none any more to be kept."""
    await conn.execute("UPDATE tasks.tasks SET held_briefly = false WHERE id = %s AND held_briefly", (task_id,))


async def held_briefly(conn: Connection, *, limit: int) -> list[Job]:
    """Jobs whose hold was to be kept for long some seconds ago, and was not."""
    found = await every(
        conn,
        f"SELECT {JOB} FROM tasks.tasks t WHERE t.held_briefly AND t.created_at_us < {NOW} - %s"
        " ORDER BY t.created_at_us LIMIT %s",
        (job_sql.microseconds(BRIEFLY_S), limit),
    )
    return [job_sql.job(row) for row in found]


async def end(conn: Connection, task_id: str, how: End, *, claim_number: int | None = None) -> Job | None:
    """Ends a job, under a claim or (None) whoever has it. None when it has ended before or the claim is lost.

    What an unwanted end leaves running at a provider is to be stopped there (`claim_store.take_to_stop`); until then
    its body is kept. The caller puts the settlement into the outbox in the same transaction.
    """
    target = jobs.after(Status(jobs.sources(how.move)[0]), how.move)
    row = await one(
        conn,
        f"UPDATE tasks.tasks t SET status = %(status)s, finished_at_us = {NOW}, charge_nano_usd = %(charge)s,"
        " held_briefly = false,"
        " error_code = %(code)s, error_message = %(message)s, version = t.version + 1,"
        " text_tokens = %(text)s, image_tokens = %(image)s, output_tokens = %(output)s,"
        " progress = CASE WHEN %(well)s THEN 1 ELSE t.progress END,"
        f" stop_at_us = CASE WHEN %(well)s OR t.provider_task_id = '' THEN 0 ELSE {NOW} END,"
        f" body = CASE WHEN %(well)s OR t.provider_task_id = '' THEN {job_sql.NO_BODY} ELSE t.body END"
        " WHERE t.id = %(id)s AND t.status = ANY(%(sources)s)"
        f" AND (%(claim)s::integer IS NULL OR t.claims = %(claim)s::integer) RETURNING {JOB}",
        {
            "status": target.value,
            "charge": how.charge_nano_usd,
            "code": how.error_code,
            "message": how.error_message,
            "text": how.used.text_tokens,
            "image": how.used.image_tokens,
            "output": how.used.output_tokens,
            "well": target is Status.SUCCEEDED,
            "id": task_id,
            "sources": jobs.sources(how.move),
            "claim": claim_number,
        },
    )
    if row is None:
        return None
    if not how.results:
        return job_sql.job(row)
    customer_id = str(row["customer_id"])
    files = await file_store.add(conn, task_id=task_id, customer_id=customer_id, files=how.results, keep_s=how.keep_s)
    return job_sql.job(row, files)
