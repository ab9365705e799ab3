"""The audit log: what operators did is written down once, and stays as it was written."""

import asyncio
import uuid

import psycopg
import pytest

from chassis import ids
from chassis.errors import Code
from services.auth.api_keys import mint
from services.auth.audit import HIDDEN, without_keys
from tests.unit.auth.replica import Replica, refused
from tollbridge.auth.v1 import auth_pb2 as pb


async def begun(replica: Replica, **fields) -> str:
    """Writes an action down; its id."""
    made = {"id": str(ids.uuid7()), "actor": "token:0", "address": "10.0.0.1", "method": "POST", "path": "/admin/x"}
    action = pb.AdminAction(**{**made, **fields})
    await replica.call("RecordAction", pb.RecordActionRequest(action=action), pb.RecordActionResponse)
    return action.id


async def ended(replica: Replica, action_id: str, status: int, code: str = "") -> None:
    """Writes down how it ended."""
    request = pb.RecordOutcomeRequest(action_id=action_id, outcome=pb.AdminOutcome(status=status, code=code))
    await replica.call("RecordOutcome", request, pb.RecordOutcomeResponse)


async def listed(replica: Replica, **wanted) -> pb.ListActionsResponse:
    """A page of the log."""
    return await replica.call("ListActions", pb.ListActionsRequest(**wanted), pb.ListActionsResponse)


async def test_an_action_is_listed_with_its_outcome_as_soon_as_it_has_one(replica: Replica) -> None:
    """Before that it is listed without: it runs, or nobody knows how it ended."""
    actor = f"token:{uuid.uuid4()}"
    action_id = await begun(replica, actor=actor, parameters='{"amount_usd": 5}')
    (running,) = (await listed(replica, actor=actor)).actions
    assert (running.action.id, running.action.parameters) == (action_id, '{"amount_usd": 5}')
    assert running.action.at_us > 0
    assert not running.HasField("outcome")
    await ended(replica, action_id, 409, "conflict")
    (over,) = (await listed(replica, actor=actor)).actions
    assert (over.outcome.status, over.outcome.code) == (409, "conflict")
    assert over.outcome.at_us >= over.action.at_us


async def test_what_was_written_down_stays_as_it_was(replica: Replica) -> None:
    """The same id again changes neither the action nor its outcome; an outcome of nothing is left out."""
    actor = f"token:{uuid.uuid4()}"
    action_id = await begun(replica, actor=actor)
    await begun(replica, id=action_id, actor=actor, path="/admin/other")
    await ended(replica, action_id, 200)
    await ended(replica, action_id, 500, "internal")
    await ended(replica, str(ids.uuid7()), 200)
    (only,) = (await listed(replica, actor=actor)).actions
    assert (only.action.path, only.outcome.status) == ("/admin/x", 200)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE auth.admin_actions SET actor = 'nobody'",
        "DELETE FROM auth.admin_actions",
        "TRUNCATE auth.admin_actions CASCADE",
        "UPDATE auth.admin_outcomes SET status = 200",
        "DELETE FROM auth.admin_outcomes",
    ],
)
async def test_the_database_lets_nobody_change_the_log(replica: Replica, database: str, statement: str) -> None:
    """Not the owner of the tables, and the service's role least of all."""
    await ended(replica, await begun(replica), 200)

    def run(role: str) -> None:
        with psycopg.connect(database) as connection:
            connection.execute(f"SET ROLE {role}")
            connection.execute(statement)

    with pytest.raises(psycopg.errors.RestrictViolation):
        await asyncio.to_thread(run, "NONE")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await asyncio.to_thread(run, "tollbridge_auth")


async def test_the_log_is_paged_and_asked_for_by_who_what_and_when(replica: Replica) -> None:
    """Newest first; a page goes on below the last one seen."""
    actor = f"token:{uuid.uuid4()}"
    first = await begun(replica, actor=actor, path="/admin/keys")
    second = await begun(replica, actor=actor, path="/admin/keys/1", method="DELETE")
    third = await begun(replica, actor=actor, path="/admin/customers")

    async def found(**wanted) -> list[str]:
        return [one.action.id for one in (await listed(replica, actor=actor, **wanted)).actions]

    assert await found() == [third, second, first]
    page = await listed(replica, actor=actor, limit=2)
    assert [one.action.id for one in page.actions] == [third, second]
    assert page.has_more
    assert await found(after=second) == [first]
    assert await found(path="/admin/keys") == [second, first]
    assert await found(method="DELETE") == [second]
    moment = page.actions[1].action.at_us
    assert await found(from_us=moment + 1, to_us=2**62) == ([third] if page.actions[0].action.at_us > moment else [])
    assert first in await found(to_us=moment + 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "no uuid"), ("actor", ""), ("path", "/" + "x" * 500), ("parameters", "[]"), ("parameters", "{")],
)
async def test_what_is_no_action_is_refused(replica: Replica, field: str, value: str) -> None:
    """By name, before the database says so."""
    assert await refused(begun(replica, **{field: value})) is Code.INVALID_REQUEST


async def test_only_operators_faces_reach_the_log(replica: Replica) -> None:
    """Other teams and the services behind edge have no business here."""
    for caller in ("teams", "tasks", "billing"):
        asked = replica.call("ListActions", pb.ListActionsRequest(), pb.ListActionsResponse, caller=caller)
        assert await refused(asked) is Code.PERMISSION_DENIED


async def test_a_key_is_hidden_wherever_it_stands(replica: Replica) -> None:
    """Whoever puts a key where its id belongs has not published it."""
    key = mint(prefix="tb-", seed=b"s" * 32, pepper=b"p" * 32)
    odd = mint(prefix="a.b/", seed=b"s" * 32, pepper=b"p" * 32)
    assert without_keys(f'{{"note": "{key}"}}') == f'{{"note": "{HIDDEN}"}}'
    assert without_keys(f'use {odd}, "{key}"') == f'use {HIDDEN}, "{HIDDEN}"'
    assert without_keys("/admin/keys/" + "x" * 60) == "/admin/keys/" + "x" * 60
    actor = f"token:{uuid.uuid4()}"
    await begun(replica, actor=actor, path=f"/admin/keys/{key}", method="DELETE")
    assert (await listed(replica, actor=actor)).actions[0].action.path == f"/admin/keys/{HIDDEN}"
