"""SQL of the request log: reading lines, what was paid for them, and their transfers."""

import dataclasses
from collections.abc import Sequence
from uuid import UUID

import msgspec
from psycopg.rows import TupleRow

from chassis.db import Connection

# A charge supersedes the void that a crash had made of the same request; refunds change what was paid.
_LINE = """
    SELECT u.request_id, u.customer_id, u.recorded, u.taken, u.overage,
        coalesce((SELECT -r.taken FROM billing.usage_events r
            WHERE r.request_id = u.request_id AND r.kind = 'refund'), 0)
    FROM billing.usage_events u
    WHERE (u.kind = 'charge' OR (u.kind = 'void' AND NOT EXISTS (SELECT FROM billing.usage_events c
            WHERE c.request_id = u.request_id AND c.kind = 'charge')))
"""
_ONE = f"{_LINE} AND u.request_id = %s"
_PAGE = f"{_LINE} AND {{conditions}} u.request_id < %(before)s ORDER BY u.request_id DESC LIMIT %(limit)s"
_ENDED = {each: f"'{each}'" for each in ("complete", "client_gone", "upstream_failed", "gateway_failed")}
_REFUNDED_BY = "SELECT recorded FROM billing.usage_events WHERE request_id = %s AND kind = 'refund'"
_MOVEMENTS = """
    SELECT request_id, id, debit, credit, amount, kind, (extract(epoch FROM created_at) * 1000000)::bigint
    FROM billing.transfers WHERE event_id = ANY(%s) ORDER BY created_at, leg
"""
LAST = UUID(int=(1 << 128) - 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A request's log line: what the customer's account gave for it, what we lost, and what was given back since."""

    request_id: UUID
    customer_id: str
    recorded: bytes
    taken_nano_usd: int
    overage_nano_usd: int
    refunded_nano_usd: int

    @property
    def paid_nano_usd(self) -> int:
        """What the customer paid, after refunds."""
        return self.taken_nano_usd - self.refunded_nano_usd


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer as it is shown."""

    request_id: UUID | None
    id: UUID
    debit: str
    credit: str
    amount_nano_usd: int
    kind: str
    created_at_us: int


async def line(connection: Connection, request_id: UUID) -> Line | None:
    """The line of one request, None while it has none."""
    cursor = await connection.execute(_ONE, (request_id,))
    row = await cursor.fetchone()
    return _line(row) if row else None


async def refunded_by(connection: Connection, request_id: UUID) -> str | None:
    """The id of the call that refunded a request, None when none did."""
    cursor = await connection.execute(_REFUNDED_BY, (request_id,))
    row = await cursor.fetchone()
    return bytes(row[0]).decode() if row else None


async def page(
    connection: Connection, *, customer_id: str, ended: Sequence[str], before: UUID, limit: int
) -> list[Line]:
    """Lines below a request id, newest first; of everybody when `customer_id` is empty, and however they `ended`."""
    conditions = "u.customer_id = %(customer_id)s AND " if customer_id else ""
    if ended:  # written out, not a parameter: only so the index of what is not complete is seen to fit
        conditions += f"u.ended IN ({', '.join(_ENDED[each] for each in ended)}) AND "
    values = {"customer_id": customer_id, "before": before, "limit": limit}
    cursor = await connection.execute(_PAGE.format(conditions=conditions).encode(), values)
    rows = await cursor.fetchall()
    return [_line(row) for row in rows]


async def is_dropped(connection: Connection, request_id: UUID) -> bool:
    """Whether the request is older than what the log keeps."""
    cursor = await connection.execute("SELECT kept_from > %s FROM billing.usage_log", (request_id,))
    row = await cursor.fetchone()
    return bool(row and row[0])


async def movements(connection: Connection, request_ids: Sequence[UUID]) -> list[Movement]:
    """All transfers of these requests, in the order they were made."""
    event_ids = [f"{kind}:{request_id}" for request_id in request_ids for kind in ("charge", "refund")]
    cursor = await connection.execute(_MOVEMENTS, (event_ids,))
    return [
        Movement(
            request_id=row[0],
            id=row[1],
            debit=row[2],
            credit=row[3],
            amount_nano_usd=row[4],
            kind=row[5],
            created_at_us=row[6],
        )
        for row in await cursor.fetchall()
    ]


def _line(row: TupleRow) -> Line:
    request_id, customer_id, recorded, taken, overage, refunded = row
    return Line(
        request_id=request_id,
        customer_id=customer_id,
        recorded=recorded,
        taken_nano_usd=taken,
        overage_nano_usd=overage,
        refunded_nano_usd=refunded,
    )


async def add_key(connection: Connection, public_key: bytes) -> None:
    """Keeps a key that receipts are signed with; known ones are left alone."""
    await connection.execute(
        "INSERT INTO billing.receipt_keys (public_key) VALUES (%s) ON CONFLICT DO NOTHING", (public_key,)
    )


async def read_keys(connection: Connection) -> list[tuple[bytes, int]]:
    """Every key with the time it was first used, in microseconds since the epoch; the oldest first."""
    cursor = await connection.execute(
        "SELECT public_key, (extract(epoch FROM since) * 1000000)::bigint FROM billing.receipt_keys ORDER BY since"
    )
    return [(bytes(raw), since_us) for raw, since_us in await cursor.fetchall()]
