"""`/keys` and `/admin/keys` over HTTP, with a real auth."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.auth import api_keys
from tests.unit.edge.office import ADMIN_TOKEN, Office, office


@pytest.fixture(scope="module")
async def desk(auth_database: str) -> AsyncIterator[Office]:
    """Edge's pages."""
    async with office(auth_database) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/keys", "/admin/keys"])
async def test_a_keys_spend_cap_is_shown_with_what_was_spent_of_it(desk: Office, path: str) -> None:
    """To whoever made it and in lists; while billing can't be asked the keys are listed without it."""
    customer = await desk.customer()
    key = ADMIN_TOKEN if path.startswith("/admin") else (await desk.key(customer))["key"]
    body: dict[str, Any] = {"customer_id": customer, "spend_cap": {"amount_usd": "5.000000001", "per": "day"}}
    made = await desk.ask("POST", path, key, body)
    assert (made.status_code, made.json()["spend_cap"]["spent_usd"]) == (201, "0.000000000")
    key_id = made.json()["id"]

    async def listed() -> Any:
        rows = (await desk.ask("GET", f"{path}?customer_id={customer}", key)).json()["data"]
        return next(row["spend_cap"] for row in rows if row["id"] == key_id)

    desk.billing.spent[f"key:{key_id}/day"] = 1_500_000_000
    assert await listed() == {"amount_usd": "5.000000001", "per": "day", "spent_usd": "1.500000000"}
    desk.billing.spent[f"key:{key_id}/day"] = -1
    assert await listed() == {"amount_usd": "5.000000001", "per": "day", "spent_usd": None}


@pytest.mark.parametrize("amount", ["0", "-1", "9007200", "0.0000000001"])
async def test_an_impossible_spend_cap_is_refused_by_name(desk: Office, amount: str) -> None:
    """400 with `param`."""
    body = {"customer_id": await desk.customer(), "spend_cap": {"amount_usd": amount, "per": "total"}}
    refused = await desk.ask("POST", "/admin/keys", ADMIN_TOKEN, body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "spend_cap.amount_usd")


async def test_an_idempotency_key_of_any_length_that_may_be_makes_a_key_once(desk: Office) -> None:
    """Of 255 characters too; one that can't be is refused by its header's name."""
    body = {"customer_id": await desk.customer()}

    async def asked(key: str) -> Any:
        return await desk.ask("POST", "/admin/keys", ADMIN_TOKEN, body, **{"idempotency-key": key})

    first, again, other = await asked("k" * 255), await asked("k" * 255), await asked("k" * 254)
    assert [each.status_code for each in (first, again, other)] == [201, 201, 201]
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    refused = await asked("k" * 256)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_a_restricted_key_manages_no_other_keys(desk: Office) -> None:
    """403 for making and ending; it may look, and end itself."""
    customer = await desk.customer()
    other = await desk.key(customer)
    bound = await desk.key(customer, models=["m1"])
    made = await desk.ask("POST", "/v1/keys", bound["key"], {"name": "free of restrictions"})
    assert (made.status_code, made.json()["error"]["code"]) == (403, "permission_denied")
    assert (await desk.ask("DELETE", f"/v1/keys/{other['id']}", bound["key"])).status_code == 403
    assert (await desk.ask("GET", "/v1/keys", bound["key"])).status_code == 200
    assert (await desk.ask("DELETE", f"/v1/keys/{bound['id']}", bound["key"])).status_code == 200


async def test_a_key_without_restrictions_makes_and_ends_its_customers_keys(desk: Office) -> None:
    """And each key says which key made it."""
    free = await desk.key(await desk.customer())
    made = await desk.ask("POST", "/v1/keys", free["key"], {"name": "child", "requests_per_minute": 5})
    assert (made.status_code, made.json()["made_by"], free["made_by"]) == (201, free["id"], None)
    assert (await desk.ask("DELETE", f"/v1/keys/{made.json()['id']}", free["key"])).status_code == 200
    other = await desk.key(await desk.customer())
    assert (await desk.ask("DELETE", f"/v1/keys/{other['id']}", free["key"])).status_code == 404


@pytest.mark.parametrize("by", ["operator", "customer"])
async def test_who_was_told_that_a_key_is_ended_is_not_served_with_it_again(desk: Office, by: str) -> None:
    """By this edge at once, which keeps answers of auth for a second; others hear of it on the bus, absent here."""
    customer = await desk.customer()
    ended, other = await desk.key(customer), await desk.key(customer)
    for key in (ended, other):
        assert (await desk.ask("GET", "/v1/models", key["key"])).status_code == 200
    if by == "operator":
        await desk.admin("DELETE", f"/admin/keys/{ended['id']}")
    else:
        await desk.ask("DELETE", f"/v1/keys/{ended['id']}", other["key"])
    assert (await desk.ask("GET", "/v1/models", ended["key"])).status_code == 401
    assert (await desk.ask("GET", "/v1/models", other["key"])).status_code == 200


async def test_a_suspension_holds_when_it_is_told(desk: Office) -> None:
    """And so does its end."""
    customer = await desk.customer()
    key = (await desk.key(customer))["key"]
    for status, expected in (("active", 200), ("suspended", 403), ("active", 200)):
        await desk.admin("PATCH", f"/admin/customers/{customer}", {"status": status})
        assert (await desk.ask("GET", "/v1/models", key)).status_code == expected


async def test_whoever_holds_no_valid_key_gets_one_answer(desk: Office) -> None:
    """Junk, a wrong checksum, a key that was never made and a revoked one can't be told apart."""
    revoked = await desk.key(await desk.customer())
    await desk.admin("DELETE", f"/admin/keys/{revoked['id']}")
    never_made = api_keys.mint(prefix="tb_live_", seed=bytes(32), pepper=bytes(16))
    answers = []
    for key in ("x", revoked["key"][:-1] + "!", never_made[:-6] + "000000", never_made, revoked["key"], "\u00e9" * 60):
        reply = await desk.http.get("/v1/keys", headers=[(b"authorization", f"Bearer {key}".encode("latin-1"))])
        answers.append((reply.status_code, reply.json()["error"]))
    assert answers[0][0] == 401
    assert answers == [answers[0]] * len(answers)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "concurrent"])
@pytest.mark.parametrize("limit", [-1, 10**12 + 1, 10**30])
async def test_an_impossible_limit_is_refused_by_name(desk: Office, name: str, limit: int) -> None:
    """400 with `param`, however large the number."""
    reply = await desk.ask("POST", "/admin/keys", ADMIN_TOKEN, {"customer_id": await desk.customer(), name: limit})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_request", name)


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/keys/mine"), ("GET", "/v1/requests/mine")])
async def test_an_id_that_can_not_be_one_is_not_found(desk: Office, method: str, path: str) -> None:
    """As any other id that nobody has; what a body or a query names wrongly stays a 400 with `param`."""
    key = (await desk.key(await desk.customer()))["key"]
    lost = await desk.ask(method, path, key)
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found"), lost.text
    wrong = await desk.ask("GET", "/v1/requests?limit=0", key)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "limit")


@pytest.mark.parametrize("expires_at", ["", "tomorrow", "2027-01-31T12:00:00"])
async def test_a_key_never_lasts_longer_than_was_meant(desk: Office, expires_at: str) -> None:
    """What is no time is refused by name: an empty text made a key without an end."""
    body = {"customer_id": await desk.customer(), "expires_at": expires_at}
    reply = await desk.ask("POST", "/admin/keys", ADMIN_TOKEN, body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "expires_at")
