"""SQL of the dead letters: events set aside, with the holds they keep, until somebody resolves them.

A letter is resolved once and stays as a row: the same bytes that come again find it and keep no hold any more. Letters
are locked after accounts and holds, as everywhere.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from uuid import UUID

from psycopg.rows import TupleRow

from chassis.db import Connection
from chassis.ids import uuid7
from services.billing.ledger import DeadLetter
from tollbridge.usage.v1 import usage_pb2

# The update changes nothing; it makes the row that is there answer.
_ADD = """
    INSERT INTO billing.dead_letters (id, digest, request_id, kind, customer_id, hold_id, reason, recorded)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING resolved_at IS NULL
"""
_OPEN_OF_HOLDS = """
    SELECT hold_id, request_id, id FROM billing.dead_letters WHERE hold_id = ANY(%s) AND resolved_at IS NULL
"""
_KEPT_OF_LEASES = """
    SELECT h.id, d.recorded FROM billing.holds h
    JOIN billing.dead_letters d ON d.hold_id = h.id AND d.customer_id = h.customer_id AND d.resolved_at IS NULL
    WHERE h.id = ANY(%s) AND h.pinned AND h.kind = 'lease' AND h.request_id IS NULL
"""
_SUPERSEDE = """
    UPDATE billing.dead_letters SET resolved_at = now(), resolution = 'superseded', resolved_by = 'billing',
        resolved_because = 'a later event of the request was applied'
    WHERE request_id = ANY(%s) AND resolved_at IS NULL AND (kind <> 'charge' OR request_id = ANY(%s))
"""
_COLUMNS = """id, request_id, kind, customer_id, hold_id, reason, recorded,
    (extract(epoch FROM arrived_at) * 1000000)::bigint, coalesce(resolution, ''), resolved_by, resolved_because,
    resolved_charge, coalesce((extract(epoch FROM resolved_at) * 1000000)::bigint, 0)"""
_PAGE = f"""
    SELECT {_COLUMNS} FROM billing.dead_letters WHERE %s OR resolved_at IS NULL ORDER BY id DESC LIMIT %s
"""
_READ = f"SELECT {_COLUMNS} FROM billing.dead_letters WHERE id = %s"
_RESOLVE = """
    UPDATE billing.dead_letters SET resolved_at = now(), resolution = %s, resolved_by = %s, resolved_because = %s,
        resolved_charge = %s
    WHERE id = %s
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter as it is kept; times in microseconds since the epoch. `resolution` is empty while it is open."""

    id: UUID
    request_id: UUID | None
    kind: str
    customer_id: str
    hold_id: UUID | None
    reason: str
    recorded: bytes
    arrived_at_us: int
    resolution: str
    resolved_by: str
    resolved_because: str
    resolved_charge_nano_usd: int
    resolved_at_us: int


def digest(letter: DeadLetter) -> bytes:
    """What makes two dead letters the same."""
    return hashlib.sha256(letter.recorded).digest()


async def add(connection: Connection, letter: DeadLetter) -> bool:
    """Sets an event aside, the same bytes once; False when they were resolved before."""
    cursor = await connection.execute(
        _ADD,
        (
            uuid7(),
            digest(letter),
            letter.request_id,
            letter.kind,
            letter.customer_id,
            letter.hold_id,
            letter.reason,
            letter.recorded,
        ),
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def open_of_holds(
    connection: Connection, hold_ids: Iterable[UUID], *, but: UUID | None = None
) -> list[tuple[UUID, UUID | None]]:
    """(hold, request) of each open letter that keeps one of these holds; `but` is a letter that doesn't count."""
    cursor = await connection.execute(_OPEN_OF_HOLDS, (list(hold_ids),))
    return [(hold_id, request_id) for hold_id, request_id, id_ in await cursor.fetchall() if id_ != but]


async def kept_of_leases(connection: Connection, hold_ids: Iterable[UUID]) -> dict[UUID, int]:
    """What open letters keep of those of these holds that are pinned leases for many requests, in nano-USD.

    It is the sum of the charges as they were sent, right or wrong: a living spender gives back all but that.
    """
    cursor = await connection.execute(_KEPT_OF_LEASES, (list(hold_ids),))
    kept: dict[UUID, int] = {}
    for hold_id, recorded in await cursor.fetchall():
        charge = usage_pb2.UsageRecorded.FromString(bytes(recorded)).charge_nano_usd
        kept[hold_id] = kept.get(hold_id, 0) + max(charge, 0)
    return kept


async def supersede(connection: Connection, *, applied: Iterable[UUID], charged: Iterable[UUID]) -> None:
    """Closes the open letters of requests that had an event applied; a charge's letter only when it was a charge."""
    await connection.execute(_SUPERSEDE, (list(applied), list(charged)))


async def page(connection: Connection, *, resolved_too: bool, limit: int) -> list[Letter]:
    """Letters, the newest first."""
    cursor = await connection.execute(_PAGE, (resolved_too, limit))
    return [_letter(row) for row in await cursor.fetchall()]


async def count_open(connection: Connection) -> int:
    """How many nobody has resolved."""
    cursor = await connection.execute("SELECT count(*) FROM billing.dead_letters WHERE resolved_at IS NULL")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def read(connection: Connection, letter_id: UUID) -> Letter | None:
    """One letter."""
    cursor = await connection.execute(_READ, (letter_id,))
    row = await cursor.fetchone()
    return _letter(row) if row else None


async def lock(connection: Connection, letter_id: UUID) -> Letter | None:
    """One letter, which nobody else resolves until the transaction ends."""
    cursor = await connection.execute(f"{_READ} FOR UPDATE", (letter_id,))
    row = await cursor.fetchone()
    return _letter(row) if row else None


async def resolve(
    connection: Connection, letter_id: UUID, *, resolution: str, by: str, because: str, charge_nano_usd: int
) -> None:
    """Closes a letter."""
    await connection.execute(_RESOLVE, (resolution, by, because, charge_nano_usd, letter_id))


def _letter(row: TupleRow) -> Letter:
    names = [field.name for field in dataclasses.fields(Letter)]
    return Letter(**dict(zip(names, row, strict=True)))
