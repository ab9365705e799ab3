"""What a customer is told that a request would cost, and what it then costs."""

from decimal import Decimal

import httpx
import pytest

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway


def quoted(account: Account, body: dict) -> dict:
    url = f"{account.gateway.base_url}/v1/quote"
    reply = httpx.post(url, headers=account.headers, json=body, timeout=20)
    assert reply.status_code == 200, reply.text
    found: dict = reply.json()
    return found


def chat(account: Account, body: dict, **headers: str) -> httpx.Response:
    url = f"{account.gateway.base_url}/v1/chat/completions"
    return httpx.post(url, headers={**account.headers, **headers}, json=body, timeout=20)


def test_a_quote_bounds_the_charge_and_holds_nothing(system: Gateway):
    """The most is never exceeded, the price version is the receipt's, and quoting leaves no trace."""
    account = system.customer(credit_usd="1")
    body = {"model": "alpha-chat", "max_tokens": 50, "messages": [{"role": "user", "content": "How much?"}]}
    quote = quoted(account, body)
    assert quote["object"] == "quote"
    assert quote["model"] == "alpha-chat"
    assert quote["max_tokens"] == 50
    assert 0 < Decimal(quote["likely"]) <= Decimal(quote["most"])
    assert Decimal(quote["most"]) >= price_usd("alpha-chat", input=10, output=50)
    assert account.credits()["held"] == 0
    assert account.get("/requests")["data"] == []
    done = chat(account, body, **{"x-max-cost": quote["most"]})
    assert done.status_code == 200, done.text
    receipt = account.receipt(done.headers["x-request-id"])
    assert receipt["price"]["version"] == quote["price_version"]
    assert Decimal(receipt["charge"]) <= Decimal(quote["most"])


def test_what_could_cost_more_than_the_client_allows_is_not_run(system: Gateway):
    """A chat and an image: 400 names the worst case, and nothing is charged."""
    account = system.customer(credit_usd="1")
    body = {"model": "alpha-chat", "max_tokens": 50, "messages": [{"role": "user", "content": "How much?"}]}
    refused = chat(account, body, **{"x-max-cost": "0.000001"})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "max_cost_exceeded"
    assert quoted(account, body)["most"] in refused.json()["error"]["message"]
    image = {"model": "sandbox-image", "prompt": "a boat", "n": 2}
    quote = quoted(account, image)
    assert (Decimal(quote["most"]), Decimal(quote["likely"])) == (Decimal("0.04"), Decimal("0.04"))
    url = f"{system.base_url}/v1/images/generations"
    refused = httpx.post(url, headers={**account.headers, "x-max-cost": "0.039"}, json=image, timeout=20)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["code"] == "max_cost_exceeded"
    assert account.settled_credits()["balance"] == 1


def test_a_quote_refuses_what_the_call_would_refuse(system: Gateway):
    """A wrong field, an unknown model and no key."""
    account = system.customer(credit_usd="1")
    url = f"{system.base_url}/v1/quote"
    asked = {"model": "no-such", "messages": [{"role": "user", "content": "Hi"}]}
    assert httpx.post(url, headers=account.headers, json=asked, timeout=20).status_code == 404
    wrong = {"model": "alpha-chat", "messages": []}
    assert httpx.post(url, headers=account.headers, json=wrong, timeout=20).json()["error"]["param"] == "messages"
    assert httpx.post(url, json=wrong, timeout=20).status_code == 401


ASKED = [{"role": "user", "content": "How much?"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/messages", {"system": "Be brief.", "messages": ASKED, "max_tokens": 50}),
        ("/responses", {"instructions": "Be brief.", "input": "How much?", "max_output_tokens": 50}),
        ("/completions", {"prompt": ["How much?", "How far?"], "max_tokens": 50}),
    ],
)
def test_every_paid_body_is_quoted_as_its_call_is_charged(system: Gateway, path: str, body: dict):
    """The same body at /quote and at its endpoint: the most lets it run, a little less does not."""
    account = system.customer(credit_usd="1")
    body = {"model": "alpha-chat", **body}
    quote = quoted(account, body)
    assert quote["max_tokens"] == 50
    url, most = f"{system.base_url}/v1{path}", Decimal(quote["most"])
    less = {**account.headers, "x-max-cost": f"{most - Decimal('0.000000001'):f}"}
    refused = httpx.post(url, headers=less, json=body, timeout=20)
    assert refused.status_code == 400, refused.text
    assert quote["most"] in refused.text
    done = httpx.post(url, headers={**account.headers, "x-max-cost": quote["most"]}, json=body, timeout=20)
    assert done.status_code == 200, done.text
    receipt = account.receipt(done.headers["x-request-id"])
    assert 0 < Decimal(receipt["charge"]) <= most
    assert receipt["price"]["version"] == quote["price_version"]
