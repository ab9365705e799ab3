"""Webhooks that are on their way to customers, and which secret signs each customer's."""

import dataclasses
import uuid
from collections.abc import Sequence

from chassis.db import Connection
from services.tasks.job_sql import NOW, every, microseconds, one
from services.tasks.webhooks.webhook_secrets import SecretName


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A webhook that is tried now, for the `tries`-th time, and how old it is."""

    id: str
    customer_id: str
    url: str
    body: bytes
    tries: int
    age_s: float
    secret: SecretName


async def secret_of(conn: Connection, customer_id: str, *, newest_key: int, renew: bool) -> SecretName:
    """The customer's secret, made when there is none; `renew` makes another, under the newest key."""
    await conn.execute(
        "INSERT INTO tasks.webhook_secrets (customer_id, key_version, number) VALUES (%s, %s, 1)"
        " ON CONFLICT (customer_id) DO NOTHING",
        (customer_id, newest_key),
    )
    if renew:
        await conn.execute(
            "UPDATE tasks.webhook_secrets SET key_version = %s, number = number + 1 WHERE customer_id = %s",
            (newest_key, customer_id),
        )
    row = await one(
        conn, "SELECT key_version, number FROM tasks.webhook_secrets WHERE customer_id = %s", (customer_id,)
    )
    if row is None:
        raise LookupError("a secret that was just made is gone")
    return SecretName(key_version=row["key_version"], number=row["number"])


async def add(conn: Connection, *, task_id: str, customer_id: str, url: str, body: bytes) -> None:
    """Puts one on its way, in the transaction of its cause."""
    await conn.execute(
        f"INSERT INTO tasks.webhooks (id, task_id, customer_id, url, body, made_at_us, try_at_us)"
        f" SELECT %s, %s, %s, %s, %s, {NOW}, {NOW}",
        (str(uuid.uuid4()), task_id, customer_id, url, body),
    )


async def take(conn: Connection, *, limit: int, busy: Sequence[str], keep_s: float) -> list[Taken]:
    """Those that are due, the oldest of each customer who is not in `busy`; they are the taker's for `keep_s`."""
    found = await every(
        conn,
        "WITH due AS (SELECT w.id FROM ("
        "SELECT DISTINCT ON (customer_id) id, try_at_us FROM tasks.webhooks WHERE ended_at_us = 0"
        f" AND try_at_us <= {NOW} AND customer_id <> ALL(%(busy)s::uuid[]) ORDER BY customer_id, try_at_us) first"
        " JOIN tasks.webhooks w ON w.id = first.id"
        f" WHERE w.ended_at_us = 0 AND w.try_at_us <= {NOW} ORDER BY w.try_at_us LIMIT %(limit)s"
        " FOR UPDATE OF w SKIP LOCKED)"
        f" UPDATE tasks.webhooks w SET tries = w.tries + 1, try_at_us = {NOW} + %(keep)s"
        " FROM due, tasks.webhook_secrets s WHERE w.id = due.id AND s.customer_id = w.customer_id"
        f" RETURNING w.id, w.customer_id, w.url, w.body, w.tries, ({NOW} - w.made_at_us) / 1000000.0 AS age_s,"
        " s.key_version, s.number",
        {"busy": list(busy), "limit": limit, "keep": microseconds(keep_s)},
    )
    return [
        Taken(
            id=str(row["id"]),
            customer_id=str(row["customer_id"]),
            url=row["url"],
            body=bytes(row["body"]),
            tries=row["tries"],
            age_s=float(row["age_s"]),
            secret=SecretName(key_version=row["key_version"], number=row["number"]),
        )
        for row in found
    ]


async def end(conn: Connection, webhook_id: str, *, problem: str) -> None:
    """It was taken, or (with a problem) is given up."""
    await conn.execute(
        f"UPDATE tasks.webhooks SET ended_at_us = {NOW}, problem = %s WHERE id = %s", (problem, webhook_id)
    )


async def postpone(conn: Connection, webhook_id: str, *, pause_s: float, problem: str) -> None:
    """It is tried again after a pause."""
    await conn.execute(
        f"UPDATE tasks.webhooks SET try_at_us = {NOW} + %s, problem = %s WHERE id = %s",
        (microseconds(pause_s), problem, webhook_id),
    )


async def forget(conn: Connection, *, kept_days: int, limit: int) -> None:
    """Drops some of those that ended long ago."""
    await conn.execute(
        "DELETE FROM tasks.webhooks WHERE id IN (SELECT id FROM tasks.webhooks"
        f" WHERE ended_at_us > 0 AND ended_at_us < {NOW} - %s ORDER BY ended_at_us LIMIT %s)",
        (microseconds(kept_days * 86_400.0), limit),
    )
