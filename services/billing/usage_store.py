"""SQL of usage reports: sums over the request log."""

from collections.abc import Mapping
from uuid import UUID

from chassis.db import Connection

_DAY = """to_char('epoch'::timestamptz AT TIME ZONE 'UTC' + interval '1 millisecond' *
        ('x' || left(replace(u.request_id::text, '-', ''), 12))::bit(48)::bigint, 'YYYY-MM-DD')"""
_GROUPS = {"model": "u.model", "key": "u.key_id", "day": _DAY, "customer": "u.customer_id"}
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

SumRow = tuple[str, int, int, int, int]
"""group, requests, prompt tokens, completion tokens, paid"""


async def sums(
    connection: Connection,
    *,
    group_by: str,
    first: UUID,
    end: UUID,
    equal: Mapping[str, str],
    after: str | None,
    limit: int,
) -> list[SumRow]:
    """Groups above `after` with what their requests used; empty values of `equal` are no condition."""
    group = f'({_GROUPS[group_by]} COLLATE "C")'
    conditions = [f"u.{name} = %({name})s" for name in _CONDITIONS if equal[name]]
    if after is not None:
        conditions.append(f"{group} > %(after)s")
    query = _SUMS.format(group=group, conditions=" AND ".join(conditions) or "true")
    values = {**equal, "first": first, "end": end, "after": after, "limit": limit}
    cursor = await connection.execute(query.encode(), values)
    return [(called, *(int(number) for number in numbers)) for called, *numbers in await cursor.fetchall()]
