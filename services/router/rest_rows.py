"""The table of rests: what replicas tell each other of accounts. Its clock is the database's; no replica's counts."""

import dataclasses
from collections.abc import Sequence

from chassis.db import Connection
from services.router.breaker import Rest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A rest as it is kept: of this credential, and changed so many times."""

    rest: Rest
    credential_mark: str
    revision: int = 0


async def write(connection: Connection, rows: Sequence[Row]) -> dict[str, int]:
    """Keeps what was learnt last; returns the new revisions. Of two rests of one account the longer lasts; a success
    ends both."""
    ordered = sorted(rows, key=lambda row: row.rest.account_id)
    rests = [row.rest for row in ordered]
    cursor = await connection.execute(
        """
        INSERT INTO router.rests AS r (account_id, credential_mark, is_open, rests_until, pause_s, is_broken)
        SELECT account_id, mark, is_open, clock_timestamp() + make_interval(secs => rests_for_s), pause_s, is_broken
        FROM unnest(%s::text[], %s::text[], %s::boolean[], %s::float8[], %s::float8[], %s::boolean[])
            AS given (account_id, mark, is_open, rests_for_s, pause_s, is_broken)
        ON CONFLICT (account_id) DO UPDATE SET
            rests_until = CASE
                WHEN r.is_open AND excluded.is_open AND r.credential_mark = excluded.credential_mark
                THEN greatest(r.rests_until, excluded.rests_until) ELSE excluded.rests_until END,
            credential_mark = excluded.credential_mark, is_open = excluded.is_open, pause_s = excluded.pause_s,
            is_broken = excluded.is_broken, revision = r.revision + 1
        RETURNING account_id, revision
        """,
        (
            [rest.account_id for rest in rests],
            [row.credential_mark for row in ordered],
            [rest.is_open for rest in rests],
            [rest.rests_for_s for rest in rests],
            [rest.pause_s for rest in rests],
            [rest.is_broken for rest in rests],
        ),
    )
    return {str(account_id): int(revision) for account_id, revision in await cursor.fetchall()}


async def read(connection: Connection) -> list[Row]:
    """All of them."""
    cursor = await connection.execute(
        "SELECT account_id, credential_mark, is_open, pause_s, is_broken, revision,"
        " greatest(0, extract(epoch FROM rests_until - clock_timestamp()))::float8 FROM router.rests"
    )
    return [
        Row(
            rest=Rest(account_id=account_id, is_open=is_open, rests_for_s=rests_s, pause_s=pause_s, is_broken=broken),
            credential_mark=mark,
            revision=revision,
        )
        for account_id, mark, is_open, pause_s, broken, revision, rests_s in await cursor.fetchall()
    ]
