"""`/admin/customers` over HTTP, with a real auth and a billing in memory."""

from collections.abc import AsyncIterator

import pytest

from services.edge.admin.customers import BALANCES_AT_ONCE
from tests.unit.edge.office import ADMIN_TOKEN, Office, office


@pytest.fixture
async def desk(auth_database: str) -> AsyncIterator[Office]:
    """Edge's pages."""
    async with office(auth_database) as running:
        yield running


async def test_a_customer_whose_creation_was_cut_in_two_is_completed_by_looking(desk: Office) -> None:
    """Auth has them, billing doesn't: neither list nor page is a 404, and the account is open afterwards."""
    whole, cut = await desk.customer(), await desk.customer()
    desk.billing.balances[whole] = 5_000_000_000
    del desk.billing.balances[cut]
    listed = {row["id"]: row["balance"] for row in (await desk.admin("GET", "/admin/customers"))["data"]}
    assert float(listed[whole]) == 5
    assert float(listed[cut]) == 0
    del desk.billing.balances[cut]
    assert (await desk.admin("GET", f"/admin/customers/{cut}"))["id"] == cut
    assert desk.billing.balances[cut] == 0


async def test_a_customer_whose_creation_was_cut_in_two_can_be_given_credit(desk: Office) -> None:
    """Their account is opened for it."""
    cut = await desk.customer()
    del desk.billing.balances[cut]
    given = await desk.admin("POST", f"/admin/customers/{cut}/credits", {"amount_usd": "2", "reason": "gift"})
    assert float(given["balance"]) == 2


async def test_an_unknown_customer_gets_no_account(desk: Office) -> None:
    """404, and billing opens nothing."""
    unknown = "0192aaaa-0000-7000-8000-000000000009"
    assert (await desk.ask("GET", f"/admin/customers/{unknown}", ADMIN_TOKEN)).status_code == 404
    nothing = await desk.ask("POST", f"/admin/customers/{unknown}/credits", ADMIN_TOKEN, {"amount_usd": 0})
    assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "amount_usd")
    credit = await desk.ask("POST", f"/admin/customers/{unknown}/credits", ADMIN_TOKEN, {"amount_usd": "2"})
    assert credit.status_code == 404
    assert unknown not in desk.billing.balances


async def test_a_page_of_customers_asks_for_balances_together_but_not_all_at_once(desk: Office) -> None:
    """Two hundred customers must neither take two hundred round trips nor flood billing."""
    made = [await desk.customer() for _ in range(40)]  # one by one: no call waits long for a connection of auth's
    desk.billing.pause_s = 0.02
    listed = await desk.admin("GET", "/admin/customers?limit=40")
    assert {row["id"] for row in listed["data"]} == set(made)
    assert [row["id"] for row in listed["data"]] == sorted(made, reverse=True)
    assert 1 < desk.billing.most_asking <= BALANCES_AT_ONCE


async def test_a_customers_spend_cap_is_set_kept_and_taken_away(desk: Office) -> None:
    """A change that doesn't name it keeps it; null takes it away; shown with what was spent of it."""
    cap = {"amount_usd": "7.000000000", "per": "month"}
    made = await desk.admin("POST", "/admin/customers", {"name": "capped", "spend_cap": cap})
    assert made["spend_cap"] == {**cap, "spent_usd": "0.000000000"}
    path = f"/admin/customers/{made['id']}"
    desk.billing.spent[f"customer:{made['id']}/month"] = 250_000_000
    assert (await desk.admin("PATCH", path, {"status": "active"}))["spend_cap"] == {**cap, "spent_usd": "0.250000000"}
    assert (await desk.admin("GET", path))["spend_cap"]["spent_usd"] == "0.250000000"
    total = {"amount_usd": "9.000000000", "per": "total"}
    assert (await desk.admin("PATCH", path, {"spend_cap": total}))["spend_cap"] == {**total, "spent_usd": "0.000000000"}
    assert (await desk.admin("PATCH", path, {"spend_cap": None}))["spend_cap"] is None
    assert (await desk.admin("GET", path))["spend_cap"] is None
