"""The tables of the audit log: `admin_actions` and `admin_outcomes`, which only grow.

Every function gets the connection that it works on. Times are microseconds since the epoch.
"""

import dataclasses
import uuid

from psycopg.rows import dict_row

from chassis.db import Connection


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What somebody does. `parameters` is a JSON object without secrets; `at_us` is set when it is written down."""

    id: uuid.UUID
    actor: str
    address: str
    method: str
    path: str
    parameters: str
    at_us: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended: of HTTP its status, of a command its exit code, with the code of its refusal, if any."""

    status: int
    code: str
    at_us: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An action with its outcome, None while it has none."""

    action: Action
    outcome: Outcome | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which page. What is empty, None or 0 doesn't matter."""

    after: uuid.UUID | None = None
    limit: int = 0
    actor: str = ""
    method: str = ""
    path: str = ""
    """What paths begin with."""
    from_us: int = 0
    to_us: int = 0


async def insert_action(conn: Connection, action: Action) -> None:
    """Adds an action, unless its id is there."""
    await conn.execute(
        "INSERT INTO auth.admin_actions (id, at_us, actor, address, method, path, parameters)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
        (action.id, action.at_us, action.actor, action.address, action.method, action.path, action.parameters),
    )


async def insert_outcome(conn: Connection, action_id: uuid.UUID, outcome: Outcome) -> None:
    """Adds the outcome of an action that is there, unless it has one."""
    await conn.execute(
        "INSERT INTO auth.admin_outcomes (action_id, at_us, status, code)"
        " SELECT id, %s, %s, %s FROM auth.admin_actions WHERE id = %s ON CONFLICT (action_id) DO NOTHING",
        (outcome.at_us, outcome.status, outcome.code, action_id),
    )


async def actions(conn: Connection, wanted: Wanted) -> list[Recorded]:
    """Newest first, by id, below `after`."""
    asked = {
        "a.id < %(after)s": wanted.after is not None,
        "a.actor = %(actor)s": wanted.actor,
        "a.method = %(method)s": wanted.method,
        "starts_with(a.path, %(path)s)": wanted.path,
        "a.at_us >= %(from_us)s": wanted.from_us,
        "a.at_us < %(to_us)s": wanted.to_us,
    }
    # Only what was asked for, since a plan for all of them alike would use none of the indexes.
    conditions = " AND ".join(condition for condition, matters in asked.items() if matters) or "true"
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT a.id, a.at_us, a.actor, a.address, a.method, a.path, a.parameters,"
            " o.at_us AS ended_at_us, o.status, o.code"
            " FROM auth.admin_actions a LEFT JOIN auth.admin_outcomes o ON o.action_id = a.id"
            f" WHERE {conditions} ORDER BY a.id DESC LIMIT %(limit)s",
            dataclasses.asdict(wanted),
        )
        rows = await cursor.fetchall()
    return [
        Recorded(
            action=Action(
                id=row["id"],
                at_us=row["at_us"],
                actor=row["actor"],
                address=row["address"],
                method=row["method"],
                path=row["path"],
                parameters=row["parameters"],
            ),
            outcome=None
            if row["ended_at_us"] is None
            else Outcome(status=row["status"], code=row["code"], at_us=row["ended_at_us"]),
        )
        for row in rows
    ]
