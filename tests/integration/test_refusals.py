"""Bad requests are refused in the openai dialect's shape with the field named; nobody is charged."""

from typing import Any

import httpx
import pytest

from tests.integration.running import Account, Gateway
from tests.patience import promised

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with a little money."""
    return system.customer(credit_usd="1")


def post(account: Account, body: Any, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    """A POST with the account's key."""
    content = body if isinstance(body, bytes) else None
    url = account.gateway.base_url + path
    return httpx.post(url, json=None if content else body, content=content, headers=account.headers | headers)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": HI}, "model"),
        ({"model": "alpha-chat"}, "messages"),
        ({"model": "alpha-chat", "messages": "hi"}, "messages"),
        ({"model": "alpha-chat", "messages": []}, "messages"),
        ({"model": 7, "messages": HI}, "model"),
        ({"model": "alpha-chat", "messages": HI, "temperature": 3}, "temperature"),
        ({"model": "alpha-chat", "messages": HI, "top_p": -1}, "top_p"),
        ({"model": "alpha-chat", "messages": HI, "presence_penalty": 9}, "presence_penalty"),
        ({"model": "alpha-chat", "messages": HI, "frequency_penalty": -9}, "frequency_penalty"),
        ({"model": "alpha-chat", "messages": HI, "n": 0}, "n"),
        ({"model": "alpha-chat", "messages": HI, "n": 129}, "n"),
        ({"model": "alpha-chat", "messages": HI, "max_tokens": 0}, "max_tokens"),
        ({"model": "alpha-chat", "messages": HI, "stream": "yes"}, "stream"),
        ({"model": "alpha-chat", "messages": HI, "service_tier": "priority"}, "service_tier"),
    ],
)
def test_a_wrong_field_is_named(account: Account, body: dict[str, Any], param: str) -> None:
    """400 with `param`, in OpenAI's error object, with a request id."""
    reply = post(account, body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[]", b'"x"', b"[" * 100_000, b'{"model": "a", "n": 1e999}'])
def test_junk_is_a_400(account: Account, body: bytes) -> None:
    """What is not a JSON object is refused, never a 500."""
    reply = post(account, body, **{"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["message"]


def test_too_large_a_body_is_413(account: Account) -> None:
    """A JSON body over 20 MiB is refused."""
    reply = post(account, b'{"model": "' + b"x" * (21 << 20) + b'"}')
    assert reply.status_code == 413


def test_a_missing_or_wrong_key_is_401(account: Account) -> None:
    """No key, junk, a well-formed unknown key and a revoked one all answer 401 with the same code."""
    wrong = [{}, {"authorization": "Bearer x"}, {"x-api-key": account.key[:-1] + "!"}]
    for headers in wrong:
        body = {"model": "alpha-chat", "messages": HI}
        reply = httpx.post(account.gateway.base_url + "/v1/chat/completions", json=body, headers=headers)
        assert reply.status_code == 401, reply.text
        assert reply.json()["error"]["code"] == "invalid_api_key"


def test_two_different_keys_are_a_400(account: Account) -> None:
    """`Authorization` and `x-api-key` that disagree are refused."""
    reply = post(account, {"model": "alpha-chat", "messages": HI}, **{"x-api-key": "other"})
    assert reply.status_code == 400


def test_a_revoked_key_is_refused_within_a_second(account: Account) -> None:
    """After DELETE /admin/keys/{id} a new request gets 401 within a second."""
    import time

    other = account.gateway.customer(credit_usd="1")
    body = {"model": "fixed-chat", "messages": HI}
    assert post(other, body).status_code == 200
    other.gateway.admin("DELETE", f"/admin/keys/{other.key_id}")
    deadline = time.monotonic() + promised(1.0)
    while time.monotonic() < deadline and post(other, body).status_code != 401:
        pass
    assert post(other, body).status_code == 401


def test_no_money_is_a_402_that_is_not_retried(account: Account) -> None:
    """A customer without credit gets 402 `insufficient_credits` and is told not to retry."""
    poor = account.gateway.customer(credit_usd="0")
    reply = post(poor, {"model": "alpha-chat", "messages": HI})
    assert reply.status_code == 402
    assert reply.json()["error"]["code"] == "insufficient_credits"
    assert reply.headers["x-should-retry"] == "false"


def test_an_unknown_model_is_a_404(account: Account) -> None:
    """404 `model_not_found` with `param`."""
    reply = post(account, {"model": "nope", "messages": HI})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"


def test_a_suspended_customer_is_a_403(account: Account) -> None:
    """A suspended customer is refused, and served again once active."""
    other = account.gateway.customer(credit_usd="1")
    other.gateway.admin("PATCH", f"/admin/customers/{other.customer_id}", status="suspended")
    from tests.integration.running import wait_until

    body = {"model": "fixed-chat", "messages": HI}
    wait_until(lambda: post(other, body).status_code == 403, timeout_s=20, what="403")
    other.gateway.admin("PATCH", f"/admin/customers/{other.customer_id}", status="active")
    wait_until(lambda: post(other, body).status_code == 200, timeout_s=20, what="200 again")


def test_an_unknown_path_and_a_wrong_method(account: Account) -> None:
    """404 and 405 in the dialect's shape."""
    url = account.gateway.base_url
    missing = httpx.get(url + "/v1/nothing-here", headers=account.headers)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = httpx.delete(url + "/v1/models", headers=account.headers)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    hot = httpx.get(url + "/v1/chat/completions", headers=account.headers)
    assert hot.status_code == 405


def test_refusals_cost_nothing(account: Account) -> None:
    """After all those refusals the balance is what it was."""
    assert account.settled_credits()["balance"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "/admin/usage?customer_id=%00",
        "/admin/usage?key_id=%00",
        "/admin/usage?model=%00",
        "/admin/usage?after=%00",
        "/admin/requests?customer_id=%00",
        "/admin/requests?after=%00",
        "/admin/customers?after=%00",
        "/admin/customers/%00",
        "/admin/customers/%00/alerts",
        "/admin/keys?customer_id=%00",
    ],
)
def test_a_nul_in_a_path_or_query_is_no_500(system: Gateway, path: str):
    """No owner hands it to its database."""
    headers = {"authorization": f"Bearer {system.ready['admin_token']}"}
    reply = httpx.get(system.base_url + path, headers=headers, timeout=10)
    assert reply.status_code in (400, 404), reply.text
