"""`/keys` and `/admin/keys` over HTTP, with a real auth."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.edge.office import ADMIN_TOKEN, Office, office


@pytest.fixture(scope="module")
async def desk(auth_database: str) -> AsyncIterator[Office]:
    """Edge's pages."""
    async with office(auth_database) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/keys", "/admin/keys"])
async def test_a_spend_cap_is_refused_by_name_as_long_as_nothing_enforces_it(desk: Office, path: str) -> None:
    """Whoever wants a cap learns that there is none before they rely on it."""
    customer = await desk.customer()
    key = ADMIN_TOKEN if path.startswith("/admin") else (await desk.key(customer))["key"]
    body: dict[str, Any] = {"name": "capped", "spend_cap": {"amount_usd": "5", "per": "day"}}
    refused = await desk.ask("POST", path, key, body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_request", "spend_cap")
    assert (await desk.ask("POST", path, key, {**body, "customer_id": customer, "spend_cap": None})).status_code == 201
