"""`/admin/config` over HTTP, and what a draining edge answers."""

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from chassis.config_state import ConfigState
from chassis.ids import uuid7_at
from services.edge.admin.every_replica import account
from tests.unit.edge.office import ADMIN_TOKEN, Office, office
from tollbridge.router.v1 import router_pb2


@pytest.fixture
async def desk(auth_database: str) -> AsyncIterator[Office]:
    """Edge's pages."""
    async with office(auth_database) as running:
        yield running


async def test_the_config_of_every_service_is_shown(desk: Office) -> None:
    """By replica, edge's own too; auth runs without a file here, and a router that doesn't answer has none."""
    shown = await desk.admin("GET", "/admin/config")
    assert {name.partition("/")[0]: shown["replicas"][name] for name in shown["replicas"]} == {
        "auth": "",
        "router": None,
        "billing": "billing's",
        "tasks": "tasks'",
        "edge": "edge's",
    }
    assert all(name == "edge/machine/0" or "/127.0.0.1:" in name for name in shown["replicas"])
    assert shown["error"] is None


async def test_why_a_changed_file_was_refused_is_shown_whoever_refused_it(desk: Office) -> None:
    """One sentence is enough to find it."""
    desk.billing.config = ConfigState(hash="billing's", error="line 7: no")
    assert (await desk.admin("GET", "/admin/config"))["error"].endswith(": line 7: no")


@pytest.mark.parametrize("path", ["/health", "/readyz"])
async def test_a_draining_edge_says_when_to_ask_again(desk: Office, path: str) -> None:
    """Its 503 has Retry-After, as every 503."""
    await desk.admin("POST", "/admin/drain")
    reply = await desk.http.get(path)
    assert (reply.status_code, reply.headers.get("retry-after")) == (503, "1")
    await desk.admin("POST", "/admin/undrain")
    assert "retry-after" not in (await desk.http.get(path)).headers


async def test_the_request_log_is_asked_for_by_how_requests_ended(desk: Office) -> None:
    """One way or more; one that there isn't is refused by its name, and without any it is the whole log."""
    broken = await desk.admin("GET", "/admin/requests?ended=upstream_failed&ended=gateway_failed")
    assert broken["data"] == [{"id": "ENDED_UPSTREAM_FAILED ENDED_GATEWAY_FAILED"}]
    assert (await desk.admin("GET", "/admin/requests"))["data"] == [{"id": ""}]
    refused = await desk.ask("GET", "/admin/requests?ended=broken", ADMIN_TOKEN)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "ended")


@pytest.mark.parametrize("amount", ["-1", 0, "0.000000000"])
async def test_a_refund_of_nothing_is_refused_by_its_field(desk: Office, amount: object) -> None:
    """The name is the one that the operator wrote; a zero is not all of it, which is to leave the amount out."""
    body = {"request_id": str(uuid4()), "reason": "why", "amount_usd": amount}
    error = (await desk.ask("POST", "/admin/refunds", ADMIN_TOKEN, body)).json()["error"]
    assert error["param"] == "amount_usd"


@pytest.mark.parametrize(("age_s", "status", "code"), [(5, 409, "not_settled"), (3600, 404, "not_found")])
async def test_what_may_still_run_is_not_settled(desk: Office, age_s: int, status: int, code: str) -> None:
    """Billing hears of a request under a shared lease by its end: an id from just now is no unknown one."""
    request_id = uuid7_at(int((time.time() - age_s) * 1000))
    reply = await desk.ask("POST", "/admin/refunds", ADMIN_TOKEN, {"request_id": str(request_id), "reason": "why"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def seen(**fields: Any) -> router_pb2.ProviderAccount:
    """An account as one router sees it."""
    return router_pb2.ProviderAccount(**{"id": "a", "provider_id": "p", "state": "ready", **fields})


def test_what_runs_on_an_unlimited_account_is_the_sum_of_all_routers() -> None:
    """Each counts its own; the slots of a limited one are counted in the database, alike for all."""
    assert account([seen(in_use=2), seen(in_use=3)])["in_use"] == 5
    limited = account([seen(in_use=2, slots=4), seen(in_use=3, slots=4)])
    assert (limited["in_use"], limited["slots"]) == (3, 4)


def test_an_account_is_in_the_worst_state_that_a_router_knows() -> None:
    """And rests as long as with the one that lets it rest longest."""
    shown = account([seen(), seen(state="cooling", cooled_until_us=7_000_000, error_rate=0.5), seen(state="ready")])
    assert (shown["state"], shown["cooled_until"], shown["error_rate"]) == (
        "cooling",
        "1970-01-01T00:00:07.000000Z",
        0.5,
    )
    assert account([seen(state="cooling"), seen(state="broken")])["state"] == "broken"


def test_an_account_is_drained_when_no_router_has_it_in_its_config() -> None:
    """While one is behind the others it is what that one says."""
    gone = seen(state="drained", provider_id="", in_use=2)
    assert account([gone, gone]) == {
        "id": "a",
        "provider": "",
        "state": "drained",
        "slots": None,
        "in_use": 2,
        "cooled_until": None,
        "error_rate": 0.0,
    }
    assert account([gone, seen(slots=3, in_use=2)])["state"] == "ready"
    assert account([gone, seen(in_use=1)])["in_use"] == 1


async def test_accounts_are_unavailable_when_no_router_answers(desk: Office) -> None:
    """An empty list would say that there are none."""
    assert (await desk.ask("GET", "/admin/accounts", ADMIN_TOKEN)).status_code == 503
