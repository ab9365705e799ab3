"""A model is found by its id, its aliases and below a wildcard: in the list, in a chat, and in a key's restrictions."""

from typing import Any

import httpx
import pytest

from tests.integration.running import Account, Gateway


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


def asked(gateway: Gateway, key: str, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{gateway.base_url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def look_up(gateway: Gateway, key: str, model: str) -> httpx.Response:
    return httpx.get(f"{gateway.base_url}/v1/models/{model}", headers={"authorization": f"Bearer {key}"}, timeout=10)


@pytest.mark.parametrize(
    ("name", "model"),
    [("alpha-chat", "alpha-chat"), ("alpha-alias", "alpha-chat"), ("below/a/b", "below/a/b")],
)
def test_a_model_answers_to_each_of_its_names(account: Account, name: str, model: str) -> None:
    """The answer, the receipt and a look-up name the model by its id; below a wildcard that is what was asked for."""
    reply = asked(account.gateway, account.key, name)
    assert (reply.status_code, reply.json().get("model")) == (200, model), reply.text
    found = look_up(account.gateway, account.key, name)
    assert (found.status_code, found.json()["id"]) == (200, model)
    receipt = account.receipt(reply.headers["x-request-id"])
    assert receipt["model"] == model


def test_below_a_wildcard_the_provider_is_asked_for_the_rest_of_the_name(account: Account) -> None:
    """And the price is the wildcard's own."""
    reply = asked(account.gateway, account.key, "below/gpt-9")
    receipt = account.receipt(reply.headers["x-request-id"])
    assert receipt["provider"]["model"] == "upstream-gpt-9"
    usage = reply.json()["usage"]
    nano_usd = usage["prompt_tokens"] * 540 + usage["completion_tokens"] * 2200
    assert usage["cost"] == pytest.approx(nano_usd / 1e9)


def test_a_wildcard_is_in_no_list_and_can_not_be_asked_for_itself(account: Account) -> None:
    """Whoever lists models sees what they can ask for."""
    assert "below/*" not in {row["id"] for row in account.get("/models")["data"]}
    for name in ("below/*", "below/"):
        assert look_up(account.gateway, account.key, name).status_code == 404
        refused = asked(account.gateway, account.key, name)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("listed", "allowed", "denied"),
    [
        ("alpha-alias", ("alpha-alias", "alpha-chat"), ("below/x", "claudius-chat")),
        ("alpha-chat", ("alpha-alias", "alpha-chat"), ("below/x",)),
        ("below/*", ("below/x", "below/y/z"), ("alpha-alias",)),
        ("below/x", ("below/x",), ("below/y", "alpha-chat")),
    ],
)
def test_a_key_is_restricted_to_models_by_any_of_their_names(
    account: Account, listed: str, allowed: tuple[str, ...], denied: tuple[str, ...]
) -> None:
    """What it may not use it doesn't see either."""
    made = account.gateway.admin("POST", "/admin/keys", customer_id=account.customer_id, models=[listed])
    key: Any = made["key"]
    for name in allowed:
        assert asked(account.gateway, key, name).status_code == 200, name
        assert look_up(account.gateway, key, name).status_code == 200, name
    for name in denied:
        refused = asked(account.gateway, key, name)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed"), name
        assert look_up(account.gateway, key, name).status_code == 404, name


@pytest.mark.parametrize("listed", ["painter", "sandbox-image"])
def test_a_key_for_an_image_model_makes_images_by_any_of_its_names(account: Account, listed: str) -> None:
    """And is quoted for them; for another model it is neither."""
    made = account.gateway.admin("POST", "/admin/keys", customer_id=account.customer_id, models=[listed])
    headers = {"authorization": f"Bearer {made['key']}"}
    statuses = {}
    for path in ("/images/generations", "/quote"):
        for name in ("painter", "sandbox-image", "alpha-chat"):
            body = {"model": name, "prompt": "a house"}
            reply = httpx.post(f"{account.gateway.base_url}/v1{path}", json=body, headers=headers, timeout=30)
            statuses[path, name] = reply.status_code
    assert [statuses["/images/generations", name] for name in ("painter", "sandbox-image", "alpha-chat")] == [
        200,
        200,
        403,
    ]
    assert [statuses["/quote", name] for name in ("painter", "sandbox-image")] == [200, 200]
