"""A job as a row: the columns that are read, and what is made of them."""

from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row

from chassis.db import Connection
from services.tasks.jobs import Job, Order, ResultFile, Status, Submission, Used

NOW = "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
"""The database's clock, in microseconds: the same to every worker whatever its own says. A SELECT, so that it is read
once: what may differ from row to row is compared with all of them, and no index helps to find what is due."""
JOB = (
    "t.id, t.customer_id, t.key_id, t.kind, t.model, t.price_version, t.hold_id, t.hold_nano_usd,"
    " t.traceparent, t.status, t.claims, t.spender, t.created_at_us, t.deadline_us, t.started_at_us,"
    " t.finished_at_us, t.charge_nano_usd, t.error_code, t.error_message, t.provider_account_id,"
    " t.provider_task_id, t.progress, t.failures, t.strikes, t.version, t.webhook_url, t.files_url,"
    " t.text_tokens, t.image_tokens, t.output_tokens, t.deleted_at_us"
)
"""Without the body, which may be 20 MiB: a list of jobs must not hold them all."""
NO_BODY = "CASE WHEN t.shown = '' THEN t.body ELSE '' END"
"""What is left of the body once a job is over: nothing, unless what of it is shown was not kept beside it."""

Row = dict[str, Any]
Arguments = Sequence[object] | dict[str, object]


async def one(conn: Connection, query: str, arguments: Arguments) -> Row | None:
    """The first row."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, arguments)
        return await cursor.fetchone()


async def every(conn: Connection, query: str, arguments: Arguments) -> list[Row]:
    """All rows."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, arguments)
        return await cursor.fetchall()


def microseconds(seconds: float) -> int:
    """For the database's clock."""
    return int(seconds * 1_000_000)


def file(row: Row) -> ResultFile:
    """A row of `results`."""
    return ResultFile(
        file_id=str(row["file_id"]),
        content_type=row["content_type"],
        size_bytes=row["size_bytes"],
        expires_at_us=row["expires_at_us"],
    )


def job(row: Row, files: tuple[ResultFile, ...] = ()) -> Job:
    """A row of JOB, with or without the body."""
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
        webhook_url=row["webhook_url"],
        files_url=row["files_url"],
    )
    return Job(
        order=order,
        status=Status(row["status"]),
        created_at_us=row["created_at_us"],
        deadline_us=row["deadline_us"],
        started_at_us=row["started_at_us"],
        finished_at_us=row["finished_at_us"],
        claims=row["claims"],
        strikes=row["strikes"],
        spender=row["spender"],
        charge_nano_usd=row["charge_nano_usd"],
        error_code=row["error_code"],
        error_message=row["error_message"],
        submission=submission(row),
        progress=row["progress"],
        failures=row["failures"],
        version=row["version"],
        results=files,
        used=Used(text_tokens=row["text_tokens"], image_tokens=row["image_tokens"], output_tokens=row["output_tokens"]),
        deleted=row["deleted_at_us"] > 0,
    )


def submission(row: Row) -> Submission | None:
    """What it has running at a provider."""
    if not row["provider_task_id"]:
        return None
    return Submission(provider_account_id=row["provider_account_id"], provider_task_id=row["provider_task_id"])
