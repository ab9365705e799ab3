"""Refused requests are counted by key, code and minute, and auth is told."""

from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import uuid4

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from services.edge.paid import refusals
from services.edge.paid.refusals import Refusals, RefusalTeller
from tests.unit.edge.office import ADMIN_TOKEN, Office, office


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 600.0

    def __call__(self) -> float:
        return self.now_s


class Auth:
    """What was told, as totals, and an auth that may be away."""

    def __init__(self) -> None:
        self.totals: dict[tuple[int, str, str], int] = {}
        self.calls = 0
        self.is_down = False

    async def call(self, _method: str, request: Any, *_: object, **__: object) -> None:
        self.calls += 1
        if self.is_down:
            raise TollbridgeError(Code.UNAVAILABLE, "auth is away", retry_after_s=1)
        self.totals |= {(each.minute, each.key_id, each.code): each.count for each in request.counts}


def told_to(auth: Auth, counted: Refusals) -> RefusalTeller:
    return RefusalTeller(refusals=counted, auth=cast("PipeClient", auth), spender=uuid4())


async def test_totals_are_told_until_auth_has_heard_them() -> None:
    """What could not be told is told later, and nothing is told twice for nothing."""
    clock, auth = Clock(), Auth()
    counted = Refusals(now_s=clock)
    teller = told_to(auth, counted)
    counted.count("k", Code.RATE_LIMIT_EXCEEDED)
    auth.is_down = True
    await teller.tell()
    counted.count("k", Code.RATE_LIMIT_EXCEEDED)
    auth.is_down = False
    await teller.tell()
    assert auth.totals == {(10, "k", "rate_limit_exceeded"): 2}
    await teller.tell()
    assert auth.calls == 2
    counted.count("k", Code.RATE_LIMIT_EXCEEDED)
    await teller.tell()
    assert auth.totals == {(10, "k", "rate_limit_exceeded"): 3}


async def test_a_minute_that_is_over_and_told_is_forgotten() -> None:
    """One that could not be told is kept, for an hour at most."""
    clock, auth = Clock(), Auth()
    counted = Refusals(now_s=clock)
    teller = told_to(auth, counted)
    counted.count("k", Code.NOT_FOUND)
    await teller.tell()
    assert len(counted) == 1
    clock.now_s += 60
    await teller.tell()
    assert len(counted) == 0
    counted.count("k", Code.NOT_FOUND)
    auth.is_down = True
    clock.now_s += 60 * 60
    await teller.tell()
    assert len(counted) == 1
    clock.now_s += 60
    await teller.tell()
    assert len(counted) == 0


async def test_any_number_of_keys_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond the bound is counted by its code; no request is left out."""
    monkeypatch.setattr(refusals, "MOST_CELLS", 3)
    auth, counted = Auth(), Refusals(now_s=Clock())
    for number in range(10):
        counted.count(f"k{number}", Code.NOT_FOUND)
    counted.count("k0", Code.NOT_FOUND)
    await told_to(auth, counted).tell()
    assert len(counted) == 4
    assert auth.totals == {
        (10, "", "not_found"): 7,
        (10, "k0", "not_found"): 2,
        (10, "k1", "not_found"): 1,
        (10, "k2", "not_found"): 1,
    }


async def test_a_flood_of_keys_that_nobody_has_is_one_count() -> None:
    """They have no id, so that there is nothing to remember of each."""
    auth, counted = Auth(), Refusals(now_s=Clock())
    for _ in range(10_000):
        counted.count("", Code.INVALID_API_KEY)
    await told_to(auth, counted).tell()
    assert (len(counted), auth.calls) == (1, 1)
    assert auth.totals == {(10, "", "invalid_api_key"): 10_000}


@pytest.fixture
async def desk(auth_database: str) -> AsyncIterator[Office]:
    """Edge's pages."""
    async with office(auth_database) as running:
        yield running


async def test_an_operator_sees_whose_requests_were_refused_and_why(desk: Office) -> None:
    """By key and minute; one without a key that is known counts too, and reading pages doesn't."""
    customer = await desk.customer()
    key = await desk.key(customer, name="k")
    for _ in range(3):
        assert (await desk.ask("POST", "/v1/quote", key["key"], {})).status_code == 400
    assert (await desk.ask("POST", "/v1/quote", "wrong", {})).status_code == 401
    assert (await desk.ask("GET", "/v1/requests?limit=0", key["key"])).status_code == 400
    await desk.refusals.tell()
    lines = (await desk.admin("GET", f"/admin/refusals?customer_id={customer}"))["data"]
    assert {(line["key_id"], line["code"]) for line in lines} == {(key["id"], "invalid_request")}
    assert sum(line["requests"] for line in lines) == 3  # in one minute, or in two
    assert lines[0]["minute"].endswith(":00.000000Z")
    strangers = (await desk.admin("GET", "/admin/refusals?code=invalid_api_key"))["data"]
    assert [(each["key_id"], each["requests"]) for each in strangers] == [(None, 1)]
    await desk.admin("PATCH", f"/admin/customers/{customer}", {"status": "suspended"})
    assert (await desk.ask("POST", "/v1/quote", key["key"], {})).status_code == 403
    await desk.admin("DELETE", f"/admin/keys/{key['id']}")
    assert (await desk.ask("POST", "/v1/quote", key["key"], {})).status_code == 401
    await desk.refusals.tell()
    lines = (await desk.admin("GET", f"/admin/refusals?key_id={key['id']}"))["data"]
    assert {"customer_suspended", "invalid_api_key"} <= {line["code"] for line in lines}
    newest = await desk.admin("GET", "/admin/refusals?limit=1")
    older = await desk.admin("GET", f"/admin/refusals?limit=1&after={newest['next']}")
    assert newest["has_more"]
    assert older["data"][0]["id"] not in ("", newest["data"][0]["id"])
    refused = await desk.ask("GET", "/admin/refusals?key_id=x", ADMIN_TOKEN)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "key_id")
