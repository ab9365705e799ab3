"""Tasks' tables. Every function gets the connection that it works on; who opens the transaction decides its extent.

All times come from the database's clock, so that leases mean the same to every worker whatever its own clock says.
Every move of a job is one UPDATE that names the states it may start from (`jobs.sources`): of two at once one wins.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row

from chassis.db import Connection
from services.tasks import jobs
from services.tasks.jobs import Job, Move, Order, ResultFile, Status, Submission

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_JOB = (
    "t.id, t.customer_id, t.key_id, t.kind, t.model, t.price_version, t.hold_id, t.hold_nano_usd,"
    " t.traceparent, t.status, t.claims, t.spender, t.created_at_us, t.deadline_us, t.started_at_us,"
    " t.finished_at_us, t.charge_nano_usd, t.error_code, t.error_message, t.provider_account_id,"
    " t.provider_task_id, t.progress"
)


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


# Reading


async def accepted(conn: Connection, task_id: str) -> Accepted | None:
    """One job with its results and its request's digest."""
    row = await _one(conn, f"SELECT {_JOB}, t.fingerprint FROM tasks.tasks t WHERE t.id = %s", (task_id,))
    if row is None:
        return None
    files = await results(conn, [task_id])
    return Accepted(job=_job(row, files.get(task_id, ())), fingerprint=bytes(row["fingerprint"]))


async def job(conn: Connection, task_id: str) -> Job | None:
    """One job with its results."""
    found = await accepted(conn, task_id)
    return None if found is None else found.job


async def has_ended(conn: Connection, task_id: str) -> bool:
    """Whether a job is over or unknown: what a waiting caller polls."""
    row = await _one(conn, "SELECT t.status FROM tasks.tasks t WHERE t.id = %s", (task_id,))
    return row is None or Status(row["status"]).ended


async def jobs_of(conn: Connection, customer_id: str, *, after: str | None, limit: int) -> list[Job]:
    """A customer's jobs below `after`, newest first."""
    rows = await _all(
        conn,
        f"SELECT {_JOB} FROM tasks.tasks t WHERE t.customer_id = %(customer)s"
        " AND (%(after)s::uuid IS NULL OR t.id < %(after)s::uuid) ORDER BY t.id DESC LIMIT %(limit)s",
        {"customer": customer_id, "after": after, "limit": limit},
    )
    files = await results(conn, [str(row["id"]) for row in rows])
    return [_job(row, files.get(str(row["id"]), ())) for row in rows]


async def results(conn: Connection, task_ids: Sequence[str]) -> dict[str, tuple[ResultFile, ...]]:
    """The files of some jobs, in the order they were made."""
    rows = await _all(
        conn,
        "SELECT task_id, file_id, content_type, size_bytes FROM tasks.results WHERE task_id = ANY(%s::uuid[])"
        " ORDER BY task_id, position",
        (list(task_ids),),
    )
    found: dict[str, tuple[ResultFile, ...]] = {}
    for row in rows:
        task_id = str(row["task_id"])
        found[task_id] = (*found.get(task_id, ()), _file(row))
    return found


async def file_with_owner(conn: Connection, file_id: str) -> tuple[ResultFile, str] | None:
    """A result and whose it is."""
    row = await _one(
        conn,
        "SELECT r.file_id, r.content_type, r.size_bytes, t.customer_id FROM tasks.results r"
        " JOIN tasks.tasks t ON t.id = r.task_id WHERE r.file_id = %s",
        (file_id,),
    )
    return None if row is None else (_file(row), str(row["customer_id"]))


# Moves


async def insert(conn: Connection, order: Order, *, fingerprint: bytes) -> bool:
    """Stores a job as pending; False when that id is taken."""
    made = await conn.execute(
        "INSERT INTO tasks.tasks (id, customer_id, key_id, kind, model, body, fingerprint, price_version, hold_id,"
        " hold_nano_usd, traceparent, announced_at_us, created_at_us, deadline_us)"
        f" SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {_NOW}, {_NOW}, {_NOW} + %s"
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
            int(order.time_to_live_s * 1_000_000),
        ),
    )
    return made.rowcount == 1


async def claim(conn: Connection, task_id: str, *, spender: str) -> Job | None:
    """Takes a job that is pending, or whose worker has fallen silent. None when there is nothing to take.

    Only what is claimed comes with its body, which may be 20 MiB: a list of jobs must not hold them all.
    """
    row = await _one(
        conn,
        f"UPDATE tasks.tasks t SET status = %s, spender = %s, claims = claims + 1, lease_until_us = {_NOW} + %s,"
        f" started_at_us = CASE WHEN started_at_us = 0 THEN {_NOW} ELSE started_at_us END"
        f" WHERE t.id = %s AND t.claims < %s AND t.deadline_us > {_NOW} AND (t.status = ANY(%s)"
        f" OR (t.status = ANY(%s) AND t.lease_until_us < {_NOW})) RETURNING {_JOB}, t.body",
        (
            Status.RUNNING.value,
            spender,
            _lease_us(),
            task_id,
            jobs.MAX_CLAIMS,
            jobs.sources(Move.CLAIM),
            jobs.sources(Move.RECLAIM),
        ),
    )
    return None if row is None else _job(row, ())


async def renew(conn: Connection, task_id: str, *, claim_number: int, progress: float) -> bool:
    """A heartbeat; False when the claim is lost: the job was cancelled or taken up by another."""
    done = await conn.execute(
        f"UPDATE tasks.tasks SET lease_until_us = {_NOW} + %s, progress = %s"
        " WHERE id = %s AND status = %s AND claims = %s",
        (_lease_us(), progress, task_id, Status.RUNNING.value, claim_number),
    )
    return done.rowcount == 1


async def note_submission(conn: Connection, task_id: str, submission: Submission | None, *, claim_number: int) -> bool:
    """What a claimed job has running at a provider (None: nothing any more); False when the claim is lost."""
    account_id, provider_task_id = "", ""
    if submission is not None:
        account_id, provider_task_id = submission.provider_account_id, submission.provider_task_id
    done = await conn.execute(
        "UPDATE tasks.tasks SET provider_account_id = %s, provider_task_id = %s"
        " WHERE id = %s AND status = %s AND claims = %s",
        (account_id, provider_task_id, task_id, Status.RUNNING.value, claim_number),
    )
    return done.rowcount == 1


async def release(conn: Connection, task_id: str, *, claim_number: int) -> bool:
    """Gives an unfinished job back; False when the claim is lost."""
    done = await conn.execute(
        f"UPDATE tasks.tasks SET status = %s, spender = '', announced_at_us = {_NOW}"
        " WHERE id = %s AND status = ANY(%s) AND claims = %s",
        (Status.PENDING.value, task_id, jobs.sources(Move.RELEASE), claim_number),
    )
    return done.rowcount == 1


async def end(conn: Connection, task_id: str, how: End, *, claim_number: int | None = None) -> Job | None:
    """Ends a job, under a claim or (None) whoever has it. None when it has ended before or the claim is lost.

    The caller puts the settlement into the outbox in the same transaction.
    """
    target = jobs.after(Status(jobs.sources(how.move)[0]), how.move)
    row = await _one(
        conn,
        f"UPDATE tasks.tasks t SET status = %s, finished_at_us = {_NOW}, charge_nano_usd = %s, error_code = %s,"
        " error_message = %s, progress = CASE WHEN %s THEN 1 ELSE t.progress END WHERE t.id = %s AND t.status = ANY(%s)"
        f" AND (%s::integer IS NULL OR t.claims = %s::integer) RETURNING {_JOB}",
        (
            target.value,
            how.charge_nano_usd,
            how.error_code,
            how.error_message,
            target is Status.SUCCEEDED,
            task_id,
            jobs.sources(how.move),
            claim_number,
            claim_number,
        ),
    )
    if row is None:
        return None
    for position, file in enumerate(how.results):
        await conn.execute(
            "INSERT INTO tasks.results (file_id, task_id, position, content_type, size_bytes)"
            " VALUES (%s, %s, %s, %s, %s)",
            (file.file_id, task_id, position, file.content_type, file.size_bytes),
        )
    return _job(row, how.results)


async def lost(conn: Connection, *, silent_s: float, limit: int) -> list[tuple[Job, bool]]:
    """Jobs that nobody seems to work on, locked, each with whether it is beyond another try.

    Pending ones are those whose last work order is older than `silent_s`; running ones those whose lease has lapsed.
    """
    rows = await _all(
        conn,
        f"SELECT {_JOB}, (t.claims >= %s OR t.deadline_us <= {_NOW}) AS hopeless FROM tasks.tasks t"
        f" WHERE (t.status = 'pending' AND (t.announced_at_us < {_NOW} - %s OR t.deadline_us <= {_NOW}))"
        f" OR (t.status = 'running' AND t.lease_until_us < {_NOW} AND t.announced_at_us < {_NOW} - %s)"
        " ORDER BY t.id LIMIT %s FOR UPDATE SKIP LOCKED",
        (jobs.MAX_CLAIMS, int(silent_s * 1_000_000), int(silent_s * 1_000_000), limit),
    )
    return [(_job(row, ()), row["hopeless"]) for row in rows]


async def mark_announced(conn: Connection, task_ids: Sequence[str]) -> None:
    """A work order is on its way for each."""
    await conn.execute(f"UPDATE tasks.tasks SET announced_at_us = {_NOW} WHERE id = ANY(%s::uuid[])", (list(task_ids),))


_Row = dict[str, Any]
_Arguments = Sequence[object] | dict[str, object]


async def _one(conn: Connection, query: str, arguments: _Arguments) -> _Row | None:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, arguments)
        return await cursor.fetchone()


async def _all(conn: Connection, query: str, arguments: _Arguments) -> list[_Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, arguments)
        return await cursor.fetchall()


def _lease_us() -> int:
    return int(jobs.LEASE_S * 1_000_000)


def _file(row: _Row) -> ResultFile:
    return ResultFile(file_id=str(row["file_id"]), content_type=row["content_type"], size_bytes=row["size_bytes"])


def _submission(row: _Row) -> Submission | None:
    if not row["provider_task_id"]:
        return None
    return Submission(provider_account_id=row["provider_account_id"], provider_task_id=row["provider_task_id"])


def _job(row: _Row, files: tuple[ResultFile, ...]) -> Job:
    order = Order(
        id=str(row["id"]),
        customer_id=str(row["customer_id"]),
        key_id=row["key_id"],
        kind=row["kind"],
        model=row["model"],
        body=bytes(row.get("body", b"")),
        price_version=row["price_version"],
        hold_id=str(row["hold_id"]),
        hold_nano_usd=row["hold_nano_usd"],
        time_to_live_s=(row["deadline_us"] - row["created_at_us"]) / 1_000_000,
        traceparent=row["traceparent"],
    )
    return Job(
        order=order,
        status=Status(row["status"]),
        created_at_us=row["created_at_us"],
        deadline_us=row["deadline_us"],
        started_at_us=row["started_at_us"],
        finished_at_us=row["finished_at_us"],
        claims=row["claims"],
        spender=row["spender"],
        charge_nano_usd=row["charge_nano_usd"],
        error_code=row["error_code"],
        error_message=row["error_message"],
        submission=_submission(row),
        progress=row["progress"],
        results=files,
    )
