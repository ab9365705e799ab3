"""Counts of refused requests: edges say totals, and a page shows the sums."""

import time
import uuid

import pytest

from chassis.errors import Code
from services.auth.refusals import KEPT_MINUTES, Refusals
from tests.unit.auth.replica import Replica, refused
from tollbridge.auth.v1 import auth_pb2 as pb

NOW = int(time.time()) // 60


async def said(replica: Replica, *counts: tuple[int, str, str, int], spender: str = "") -> None:
    """An edge's totals."""
    made = [pb.RefusalCount(minute=minute, key_id=key, code=code, count=n) for minute, key, code, n in counts]
    request = pb.RecordRefusalsRequest(spender=spender or str(uuid.uuid4()), counts=made)
    await replica.call("RecordRefusals", request, pb.RecordRefusalsResponse)


async def shown(replica: Replica, **wanted) -> list[tuple[int, str, str, int]]:
    """A page."""
    reply = await replica.call("ListRefusals", pb.ListRefusalsRequest(**wanted), pb.ListRefusalsResponse)
    return [(each.minute, each.key_id, each.code, each.count) for each in reply.counts]


async def test_totals_said_again_or_late_change_nothing(replica: Replica) -> None:
    """And those of several edges are summed."""
    key, edge = str(uuid.uuid4()), str(uuid.uuid4())
    await said(replica, (NOW, key, "rate_limit_exceeded", 5), spender=edge)
    await said(replica, (NOW, key, "rate_limit_exceeded", 3), spender=edge)
    await said(replica, (NOW, key, "rate_limit_exceeded", 5), spender=edge)
    await said(replica, (NOW, key, "rate_limit_exceeded", 2))
    assert await shown(replica, key_id=key) == [(NOW, key, "rate_limit_exceeded", 7)]


async def test_counts_are_paged_and_asked_for_by_key_customer_code_and_time(replica: Replica) -> None:
    """The newest minute first."""
    made = (await replica.new_key(customer_id=(await replica.new_customer()).id, name="k")).key
    rows = [
        (NOW, made.id, "insufficient_credits", 1),
        (NOW, made.id, "rate_limit_exceeded", 2),
        (NOW - 1, made.id, "invalid_request", 3),
    ]
    await said(replica, *rows, (NOW, "", "invalid_api_key", 9))
    assert await shown(replica, customer_id=made.customer_id) == rows
    assert await shown(replica, customer_id=made.customer_id, limit=2) == rows[:2]
    after = f"{NOW}.{made.id}.rate_limit_exceeded"
    assert await shown(replica, customer_id=made.customer_id, after=after) == rows[2:]
    assert await shown(replica, key_id=made.id, code="invalid_request") == rows[2:]
    assert await shown(replica, key_id=made.id, from_us=NOW * 60_000_000) == rows[:2]
    assert await shown(replica, key_id=made.id, to_us=NOW * 60_000_000) == rows[2:]


async def test_counts_are_kept_for_thirty_days(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is older is forgotten."""
    key = str(uuid.uuid4())
    old = NOW - KEPT_MINUTES - 2
    await said(replica, (NOW, key, "not_found", 1), *((old - n, key, "not_found", 1) for n in range(3)))
    monkeypatch.setattr("services.auth.refusals.FORGOTTEN_AT_ONCE", 1)
    await Refusals(pool=replica.pool).forget_old()
    assert await shown(replica, key_id=key) == [(NOW, key, "not_found", 1)]


@pytest.mark.parametrize(
    "count",
    [(NOW, "no uuid", "not_found", 1), (NOW, "", "no code", 1), (NOW, "", "not_found", 0), (-1, "", "not_found", 1)],
)
async def test_what_is_no_count_is_refused(replica: Replica, count: tuple[int, str, str, int]) -> None:
    """Before the database says so."""
    assert await refused(said(replica, count)) is Code.INVALID_REQUEST


@pytest.mark.parametrize("after", ["x", "1.2.3", "1..no code"])
async def test_a_page_after_no_row_is_refused(replica: Replica, after: str) -> None:
    """Its id says which."""
    assert await refused(shown(replica, after=after)) is Code.INVALID_REQUEST
