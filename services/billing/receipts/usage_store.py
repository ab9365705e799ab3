"""SQL of usage reports: sums over the request log."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from chassis.db import Connection

_TEXTS = {"model": "u.model", "key": "u.key_id", "customer": "u.customer_id"}
_DAY = "width_bucket(u.request_id, %(days)s::uuid[])"
_CONDITIONS = ("customer_id", "key_id", "model")

# A line of the log is a charge, or a void that no charge superseded; a refund has a row of its own.
_SUMS = """
    SELECT {group} AS called, count(*), sum(u.prompt_tokens), sum(u.completion_tokens),
        sum(u.taken + coalesce(r.taken, 0))
    FROM billing.usage_events u
    LEFT JOIN billing.usage_events r ON r.request_id = u.request_id AND r.kind = 'refund'
        AND r.request_id >= %(first)s AND r.request_id < %(end)s
    WHERE u.request_id >= %(first)s AND u.request_id < %(end)s AND {conditions}
        AND (u.kind = 'charge' OR (u.kind = 'void' AND NOT EXISTS (SELECT FROM billing.usage_events c
            WHERE c.request_id = u.request_id AND c.kind = 'charge'
                AND c.request_id >= %(first)s AND c.request_id < %(end)s)))
    GROUP BY called ORDER BY called LIMIT %(limit)s
"""

Numbers = tuple[int, int, int, int]
"""requests, prompt tokens, completion tokens, paid"""


async def sums(
    connection: Connection,
    *,
    group_by: str,
    first: UUID,
    end: UUID,
    equal: Mapping[str, str],
    after: str | None,
    limit: int,
) -> list[tuple[str, Numbers]]:
    """Groups above `after` with what their requests used; empty values of `equal` are no condition."""
    group = f'({_TEXTS[group_by]} COLLATE "C")'
    above = [f"{group} > %(after)s"] if after is not None else []
    query = _SUMS.format(group=group, conditions=" AND ".join([*_equal(equal), *above]))
    values = {**equal, "first": first, "end": end, "after": after, "limit": limit}
    cursor = await connection.execute(query.encode(), values)
    return [(str(called), _numbers(row)) for called, *row in await cursor.fetchall()]


async def sums_by_day(
    connection: Connection, *, days: Sequence[UUID], first: UUID, end: UUID, equal: Mapping[str, str], limit: int
) -> list[tuple[int, Numbers]]:
    """Days, each by its place among `days` (the lowest request ids of days that follow each other)."""
    query = _SUMS.format(group=_DAY, conditions=" AND ".join(_equal(equal)))
    values = {**equal, "days": list(days), "first": first, "end": end, "limit": limit}
    cursor = await connection.execute(query.encode(), values)
    return [(int(called) - 1, _numbers(row)) for called, *row in await cursor.fetchall()]


def _equal(equal: Mapping[str, str]) -> list[str]:
    return ["true", *(f"u.{name} = %({name})s" for name in _CONDITIONS if equal[name])]


def _numbers(row: Sequence[object]) -> Numbers:
    requests, prompt, completion, paid = (int(str(number)) for number in row)
    return requests, prompt, completion, paid
