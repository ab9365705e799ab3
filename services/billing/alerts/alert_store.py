"""SQL of balance alerts and of the webhooks that carry them."""

import dataclasses
from collections.abc import Collection, Sequence
from uuid import UUID

from chassis.db import Connection

_READ = "SELECT customer_id, low_balance, url, secret FROM billing.balance_alerts WHERE customer_id = ANY(%s)"
_WRITE = """
    INSERT INTO billing.balance_alerts (customer_id, low_balance, url, secret) VALUES (%s, %s, %s, %s)
    ON CONFLICT (customer_id) DO UPDATE
    SET low_balance = excluded.low_balance, url = excluded.url, secret = excluded.secret, changed_at = now()
"""
_OTHERWISE_KEPT = """
    SELECT customer_id, secret FROM billing.balance_alerts
    WHERE customer_id > %s AND secret <> '' AND NOT starts_with(secret, %s) ORDER BY customer_id LIMIT %s
"""
_KEEP_OTHERWISE = "UPDATE billing.balance_alerts SET secret = %s WHERE customer_id = %s AND secret = %s"
_ADD = """
    INSERT INTO billing.webhook_deliveries (id, customer_id, body)
    SELECT id, customer_id, body FROM unnest(%s::uuid[], %s::text[], %s::bytea[])
        WITH ORDINALITY AS told (id, customer_id, body, n) ORDER BY n
    ON CONFLICT DO NOTHING
"""
# Whoever takes a webhook has it to itself until the time of the next try. What is pending, due or under way anywhere,
# holds up what its customer is told later, as long as it is young; then only one at a time goes out, the oldest first.
_TAKE = """
    WITH due AS MATERIALIZED (
        SELECT DISTINCT ON (customer_id) id
        FROM billing.webhook_deliveries w
        WHERE state = 'pending' AND try_at <= now() AND customer_id <> ALL (%s::text[]) AND NOT EXISTS (
            SELECT FROM billing.webhook_deliveries earlier
            WHERE earlier.customer_id = w.customer_id AND earlier.place < w.place AND earlier.state = 'pending'
                AND earlier.made_at > now() - %s * interval '1 second'
        )
        ORDER BY customer_id, place
    )
    UPDATE billing.webhook_deliveries AS d
    SET tries = d.tries + 1, try_at = now() + %s * interval '1 second'
    FROM (SELECT w.id, a.url, a.secret FROM billing.webhook_deliveries w JOIN due ON due.id = w.id
        LEFT JOIN billing.balance_alerts a ON a.customer_id = w.customer_id
        WHERE w.state = 'pending' AND w.try_at <= now()
        ORDER BY w.try_at LIMIT %s FOR UPDATE OF w SKIP LOCKED) AS taken
    WHERE d.id = taken.id
    RETURNING d.id, d.customer_id, d.body, d.tries, extract(epoch FROM now() - d.made_at)::bigint,
        coalesce(taken.url, ''), coalesce(taken.secret, '')
"""
_IS_DUE = "SELECT EXISTS (SELECT FROM billing.webhook_deliveries WHERE state = 'pending' AND try_at <= now())"
_END = """
    UPDATE billing.webhook_deliveries SET state = %s, problem = %s, ended_at = now() WHERE id = %s AND state = 'pending'
"""
_POSTPONE = """
    UPDATE billing.webhook_deliveries SET problem = %s, try_at = now() + %s * interval '1 second'
    WHERE id = %s AND state = 'pending'
"""
_FORGET = """
    DELETE FROM billing.webhook_deliveries WHERE id IN (SELECT id FROM billing.webhook_deliveries
        WHERE state <> 'pending' AND ended_at < now() - %s * interval '1 day' LIMIT %s)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What a customer set. `low_nano_usd` None is the default; without a URL nothing is sent.

    `secret` is as the database keeps it (`at_rest.py`), empty where none was made.
    """

    customer_id: str
    low_nano_usd: int | None = None
    url: str = ""
    secret: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A webhook that is to be tried now, for the `tries`th time, and what its customer has set by now."""

    id: UUID
    customer_id: str
    body: bytes
    tries: int
    age_s: int
    url: str
    secret: str = dataclasses.field(repr=False)


async def read(connection: Connection, customer_ids: Collection[str]) -> dict[str, Alert]:
    """What these customers set; who set nothing is left out."""
    cursor = await connection.execute(_READ, (list(customer_ids),))
    return {
        customer_id: Alert(customer_id=customer_id, low_nano_usd=low, url=url, secret=secret)
        for customer_id, low, url, secret in await cursor.fetchall()
    }


async def write(connection: Connection, alert: Alert) -> None:
    """Keeps it in the place of what was set before."""
    await connection.execute(_WRITE, (alert.customer_id, alert.low_nano_usd, alert.url, alert.secret))


async def otherwise_kept(connection: Connection, prefix: str, *, after: str, limit: int) -> list[tuple[str, str]]:
    """Customers in order, and their secrets as kept, that don't begin with `prefix`."""
    cursor = await connection.execute(_OTHERWISE_KEPT, (after, prefix, limit))
    return [(customer_id, secret) for customer_id, secret in await cursor.fetchall()]


async def keep_otherwise(connection: Connection, customer_id: str, *, before: str, after: str) -> None:
    """Keeps the same secret in another way, unless the customer has made a new one meanwhile."""
    await connection.execute(_KEEP_OTHERWISE, (after, customer_id, before))


async def add(connection: Connection, webhooks: Sequence[tuple[UUID, str, bytes]]) -> None:
    """Puts webhooks (id, customer, body) on their way, each once."""
    columns = [list(column) for column in zip(*webhooks, strict=True)]
    if columns:
        await connection.execute(_ADD, columns)


async def is_due(connection: Connection) -> bool:
    """Whether any webhook is: asked much oftener than one is, so it has to cost little."""
    row = await (await connection.execute(_IS_DUE)).fetchone()
    return bool(row and row[0])


async def take(connection: Connection, *, limit: int, busy: Sequence[str], hold_up_s: int, keep_s: int) -> list[Taken]:
    """Webhooks that are due, one of each customer who is not `busy`; nobody else takes them within `keep_s` seconds.

    One that is not taken holds up its customer's later ones until it is `hold_up_s` seconds old.
    """
    cursor = await connection.execute(_TAKE, (list(busy), hold_up_s, keep_s, limit))
    return [
        Taken(id=id_, customer_id=customer_id, body=bytes(body), tries=tries, age_s=age_s, url=url, secret=secret)
        for id_, customer_id, body, tries, age_s, url, secret in await cursor.fetchall()
    ]


async def end(connection: Connection, id_: UUID, *, problem: str) -> None:
    """It was taken, or (with a problem) is given up."""
    await connection.execute(_END, ("failed" if problem else "delivered", problem, id_))


async def postpone(connection: Connection, id_: UUID, *, pause_s: int, problem: str) -> None:
    """It is due again later."""
    await connection.execute(_POSTPONE, (problem, pause_s, id_))


async def forget(connection: Connection, *, kept_days: int, limit: int) -> None:
    """Drops some of those that ended long ago."""
    await connection.execute(_FORGET, (kept_days, limit))
