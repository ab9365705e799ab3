"""Surfaces in all dialects side by side in one process: one registry, one ledger, any key on any of them."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.examples import Client, check_chat, customer, directive
from tests.integration.running import Gateway, gateway

DIALECTS = ("openai", "dropstone", "techstone", "dragonfly", "drawbridge", "platform")
CONFIG = """
surfaces:
  - {prefix: /v1, dialect: openai}
  - {prefix: /dropstone/api/v1, dialect: dropstone, models_public: true, without: [requests]}
  - {prefix: /techstone/v1, dialect: techstone}
  - {prefix: /dragonfly/v1, dialect: dragonfly}
  - {prefix: /drawbridge/v1, dialect: drawbridge, without: [credits]}
  - {prefix: /platform/api/v1, dialect: platform}
providers: [{id: sandbox, protocol: sandbox}]
models:
  - id: a/chat
    category: chat
    context: 1000
    created: 1700000000
    routes: [{provider: sandbox, model: s}]
    price: {credits: 2}
  - {id: a/image, category: image, routes: [{provider: sandbox, model: s}], price: {per_image: 0.02}}
  - {id: a/none, category: chat, context: 1000, routes: [], price: {input: 1, output: 2}}
plans: [{id: enterprise}]
billing: {default_plan: enterprise, welcome_credit: 0}
"""
PREFIX = {
    "openai": "/v1",
    "dropstone": "/dropstone/api/v1",
    "techstone": "/techstone/v1",
    "dragonfly": "/dragonfly/v1",
    "drawbridge": "/drawbridge/v1",
    "platform": "/platform/api/v1",
}
MALFORMED = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b'{"model": "\\ud800", "name": "\\ud800"}',
    b'{"model": 1, "name": 1, "amount_usd": []}',
    b'{"model": null, "messages": null, "name": null, "amount_usd": "NaN"}',
    b'{"model": "a/chat", "messages": [1], "name": {}, "amount_usd": true}',
    b"[" * 1000 + b"]" * 1000,
)
MONEY = re.compile(r"\d+\.\d{9}")
OPENAI_BODY = {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Six surfaces over one sandbox."""
    with gateway(tmp_path_factory.mktemp("side-by-side"), CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def rich(system: Gateway) -> Client:
    """Somebody with 5 USD."""
    return customer(system, "")


@pytest.fixture(scope="module")
def poor(system: Gateway) -> Client:
    """Somebody without any."""
    return customer(system, "", credit_usd="0")


@pytest.fixture(scope="module")
def capped(system: Gateway) -> Client:
    """Somebody with money and a key that may not spend it."""
    return customer(system, "", spend_cap={"amount_usd": "0.001", "per": "total"})


def chat(client: Client, dialect: str, **fields: Any) -> httpx.Response:
    """A chat completion on that surface."""
    body = {"model": "a/chat", "messages": [{"role": "user", "content": "Hi"}]} | fields
    return client.post(f"{PREFIX[dialect]}/chat/completions", body)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_key_works_on_every_surface(rich: Client, dialect: str) -> None:
    """The prefix of a key says nothing about where it may be used."""
    answer = chat(rich, dialect)
    assert answer.status_code == 200, answer.text
    check_chat(answer.json(), "a/chat")


@pytest.mark.parametrize(
    ("dialect", "status", "fields"),
    [
        ("openai", 402, OPENAI_BODY),
        ("dropstone", 402, None),
        ("techstone", 403, OPENAI_BODY),
        ("dragonfly", 403, {"message", "type", "code", "reason", "detail"}),
        ("drawbridge", 402, OPENAI_BODY),
        ("platform", 402, {"message", "type", "code"}),
    ],
)
def test_no_money_is_said_in_each_ones_words(poor: Client, dialect: str, status: int, fields: set[str] | None) -> None:
    """One refusal of billing, six answers."""
    answer = chat(poor, dialect)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error == "Insufficient credits" if fields is None else set(error) == fields


@pytest.mark.parametrize(
    ("dialect", "status", "code"),
    [
        ("openai", 404, "model_not_found"),
        ("dropstone", 400, "model_not_found"),
        ("techstone", 404, "model_not_found"),
        ("dragonfly", 400, 400),
        ("drawbridge", 404, "model_not_found"),
        ("platform", 400, "model_not_available"),
    ],
)
def test_an_unknown_model_has_each_ones_status(rich: Client, dialect: str, status: int, code: object) -> None:
    """404 where the document has it, else 400."""
    answer = chat(rich, dialect, model="none")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("dialect", "status", "error"),
    [
        ("openai", 502, {"type": "server_error", "code": "provider_not_configured"}),
        ("dropstone", 502, {"type": "server_error", "code": "provider_not_configured"}),
        ("techstone", 503, {"type": "overloaded_error", "code": "provider_not_configured"}),
        ("dragonfly", 502, {"type": "upstream_error", "code": 502, "reason": "provider_not_configured"}),
        ("drawbridge", 502, {"type": "server_error", "code": "provider_not_configured"}),
        ("platform", 502, {"type": "provider_not_configured", "code": "provider_not_configured"}),
    ],
)
def test_a_model_without_a_provider_is_listed_and_says_so(
    rich: Client, dialect: str, status: int, error: dict[str, Any]
) -> None:
    """`routes: []`, as the video model of one of the documents' examples."""
    assert rich.get(f"{PREFIX[dialect]}/models/a/none").json()["id"] == "a/none"
    answer = chat(rich, dialect, model="a/none")
    assert answer.status_code == status
    assert error.items() <= answer.json()["error"].items()


@pytest.mark.parametrize(
    ("dialect", "status", "error"),
    [
        ("openai", 402, {"code": "spend_cap_reached"}),
        ("techstone", 403, {"type": "permission_error", "code": "spend_cap_reached"}),
        ("dragonfly", 403, {"type": "forbidden", "code": 403, "reason": "spend_cap_reached"}),
        ("drawbridge", 402, {"code": "spend_cap_reached"}),
        ("platform", 402, {"type": "spend_cap_reached", "code": "spend_cap_reached"}),
    ],
)
def test_a_reached_spend_cap_is_as_no_money(capped: Client, dialect: str, status: int, error: dict[str, Any]) -> None:
    """With its own code, and not to be retried."""
    answer = chat(capped, dialect)
    assert answer.status_code == status
    assert error.items() <= answer.json()["error"].items()
    assert answer.headers["x-should-retry"] == "false"


def test_a_reached_spend_cap_is_flat_where_no_money_is(capped: Client) -> None:
    """Its code stands beside the words; what the key's customer owns is no matter of it."""
    answer = chat(capped, "dropstone")
    body = answer.json()
    assert (answer.status_code, body["error"], body["code"]) == (402, "Spend cap reached", "spend_cap_reached")
    assert {"balance", "message", "topUpUrl"} <= set(body)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_lists_and_money_are_the_same_everywhere(rich: Client, dialect: str) -> None:
    """`{object, data, has_more, next}`, money as decimal strings, a request id on each answer."""
    chat(rich, dialect)
    for path in {"/keys", "/tasks", "/usage", "/requests"} - ({"/requests"} if dialect == "dropstone" else set()):
        answer = rich.get(PREFIX[dialect] + path)
        assert (set(answer.json()), answer.json()["object"]) == ({"object", "data", "has_more", "next"}, "list")
        assert answer.headers["x-request-id"]
    if dialect != "drawbridge":
        money = rich.get(f"{PREFIX[dialect]}/credits").json()["data"]
        assert money.pop("currency") == "USD"
        assert set(money) == {"balance", "held", "available", "total_credits", "total_usage"}
        assert all(MONEY.fullmatch(amount) for amount in money.values())
    question = {"model": "a/chat", "messages": [{"role": "user", "content": "Hi"}]}
    quote = rich.post(f"{PREFIX[dialect]}/quote", question).json()
    assert {"object", "model", "most", "likely", "price_version", "max_tokens"} <= set(quote)
    assert MONEY.fullmatch(quote["most"]), quote
    assert MONEY.fullmatch(quote["likely"]), quote


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_id_that_can_not_be_one_is_not_found(rich: Client, dialect: str) -> None:
    """As any id that nobody has, whatever the document calls it."""
    for path in ("/tasks/x", "/files/x/content", "/billing/payments/x"):
        answer = rich.get(PREFIX[dialect] + path)
        assert answer.status_code == 404, answer.text
        assert "not_found" in answer.text


@pytest.mark.parametrize(
    ("dialect", "chat_row", "is_public"),
    [
        (
            "openai",
            {
                "id": "a/chat",
                "object": "model",
                "created": 1700000000,
                "owned_by": "a",
                "pricing": {"request": 0.02},
                "context": 1000,
            },
            False,
        ),
        ("dropstone", {"id": "a/chat", "object": "model", "display_name": "a/chat", "owned_by": "a"}, True),
        ("techstone", {"id": "a/chat", "object": "model", "owned_by": "a"}, False),
        ("dragonfly", {"id": "a/chat", "object": "model", "owned_by": "a", "pricing": {"request": 0.02}}, True),
        ("drawbridge", {"id": "a/chat", "object": "model", "owned_by": "a"}, False),
        (
            "platform",
            {
                "id": "a/chat",
                "object": "model",
                "owned_by": "a",
                "display_name": "a/chat",
                "category": "chat",
                "capabilities": ["chat"],
                "credit_cost": 2,
            },
            False,
        ),
    ],
)
def test_one_registry_has_six_lists(rich: Client, dialect: str, chat_row: Any, is_public: bool) -> None:
    """Each with exactly its fields; public where the dialect or the surface says so."""
    path = f"{PREFIX[dialect]}/models"
    assert rich.get(path).json()["data"][0] == chat_row
    assert rich.with_key("").get(path).status_code == (200 if is_public else 401)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_usage_and_limits_follow_the_dialect(rich: Client, dialect: str) -> None:
    """Usage in every stream for one, limits in every answer for two."""
    answer = chat(rich, dialect, stream=True)
    assert ('"cost":' in answer.text) is (dialect == "dropstone")
    unlimited = answer.headers.get("x-ratelimit-remaining")
    assert unlimited == ("1000000" if dialect in ("techstone", "dragonfly") else None)


@pytest.mark.parametrize(
    ("dialect", "error"),
    [
        ("openai", {"type": "server_error", "code": "provider_error"}),
        ("dropstone", {"type": "server_error", "code": "provider_error"}),
        ("techstone", {"type": "overloaded_error", "code": "provider_error"}),
        ("dragonfly", {"type": "upstream_error", "code": 502, "reason": "provider_error"}),
        ("drawbridge", {"type": "server_error", "code": "provider_error"}),
        ("platform", {"type": "provider_error", "code": "provider_error"}),
    ],
)
def test_a_stream_that_breaks_ends_with_the_dialects_error(rich: Client, dialect: str, error: dict[str, Any]) -> None:
    """What came before it stays; no `[DONE]` follows."""
    script = [{"role": "user", "content": directive(chunks=4, fail_after_chunks=2)}]
    answer = chat(rich, dialect, stream=True, messages=script)
    *chunks, last = [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n") if event]
    assert chunks
    assert all("choices" in chunk for chunk in chunks)
    assert error.items() <= last["error"].items()


@pytest.mark.parametrize(("dialect", "path"), [("dropstone", "/requests"), ("drawbridge", "/credits")])
def test_what_one_surface_hides_the_others_have(rich: Client, dialect: str, path: str) -> None:
    """`without` is the surface's own."""
    statuses = {name: rich.get(PREFIX[name] + path).status_code for name in DIALECTS}
    assert statuses == {name: 404 if name == dialect else 200 for name in DIALECTS}


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("openai", OPENAI_BODY),
        ("dropstone", OPENAI_BODY),
        ("techstone", OPENAI_BODY),
        ("dragonfly", {"message", "type", "code", "reason"}),
        ("drawbridge", OPENAI_BODY),
        ("platform", {"message", "type", "code"}),
    ],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/images/generations", "/quote", "/keys", "/billing/checkout"])
def test_whatever_is_sent_is_refused_in_the_dialects_shape(
    rich: Client, dialect: str, fields: set[str], path: str
) -> None:
    """No body makes a 5xx or another dialect's error, whoever found out what is wrong."""
    for body in MALFORMED:
        answer = rich.post(PREFIX[dialect] + path, body)
        assert answer.status_code in (400, 413), (body[:60], answer.text)
        assert set(answer.json()["error"]) - {"param"} == fields - {"param"}, (body[:60], answer.text)


def test_a_link_leads_back_to_its_surface(rich: Client) -> None:
    """A picture that was made on one surface is fetched there."""
    made = rich.post("/dragonfly/v1/images/generations", {"model": "a/image", "prompt": "A fly"}).json()
    url = made["data"][0]["url"]
    assert url.startswith(f"{rich.system.base_url}/dragonfly/v1/files/")
    found = httpx.get(url, headers={"authorization": f"Bearer {rich.key}"})
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")


def test_what_is_outside_all_surfaces_speaks_openai(system: Gateway) -> None:
    """The admin API, and paths that are nobody's."""
    for path in ("/admin/keys", "/elsewhere/v1/models"):
        assert set(httpx.get(system.base_url + path).json()["error"]) == OPENAI_BODY


@pytest.fixture(scope="module")
def limited(system: Gateway) -> Client:
    """Somebody whose key has had its one request of this minute."""
    client = customer(system, "", requests_per_minute=1)
    assert chat(client, "openai").status_code == 200
    return client


@pytest.mark.parametrize(
    ("dialect", "error"),
    [
        ("openai", {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}),
        ("dropstone", {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}),
        ("techstone", {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}),
        ("dragonfly", {"type": "rate_limit_exceeded", "code": 429, "reason": "rate_limit_exceeded"}),
        ("drawbridge", {"type": "rate_limit_error", "code": "rate_limit_exceeded", "param": None}),
        ("platform", {"type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}),
    ],
)
def test_who_asks_too_often_is_told_when_to_come_again(limited: Client, dialect: str, error: dict[str, Any]) -> None:
    """In each document's shape, with the same headers; Anthropic's clients in Anthropic's."""
    found = chat(limited, dialect)
    seconds = int(found.headers["retry-after"])
    body = found.json()["error"]
    words = body.pop("message")
    assert (found.status_code, body) == (429, error)
    assert 1 <= seconds <= 60
    assert (
        dialect != "techstone" or words == f"You have exceeded your rate limit. Please retry after {seconds} seconds."
    )
    said = [found.headers.get_list(f"x-ratelimit-{name}") for name in ("limit", "remaining")]
    assert said == [["1"], ["0"]]
    assert 0 < int(found.headers["x-ratelimit-reset"]) - time.time() <= 61
    message = {"model": "a/chat", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    other = limited.post(f"{PREFIX[dialect]}/messages", message)
    assert (other.status_code, other.json()["error"]["type"]) == (429, "rate_limit_error")


@pytest.mark.parametrize("path", ["/models", "/keys", "/tasks", "/requests", "/usage"])
def test_lists_say_what_is_left_and_count_for_nothing(limited: Client, path: str) -> None:
    """Once each, also for a dialect that has a number of its own for whoever is not limited."""
    for dialect in ("openai", "techstone"):
        found = limited.get(PREFIX[dialect] + path)
        assert found.status_code == 200, found.text
        assert found.headers.get_list("x-ratelimit-limit") == ["1"]
        assert found.headers["x-ratelimit-limit-requests"] == "1"


def test_jobs_count_when_they_are_accepted(system: Gateway) -> None:
    """One that is refused doesn't; asking after one doesn't either."""
    client = customer(system, "", requests_per_minute=2, concurrent=1)
    order = {"model": "a/image", "prompt": "a bridge"}
    assert client.post("/v1/images/generations", order | {"size": "wrong"}).status_code == 400
    first = client.post("/v1/images/generations", order, prefer="respond-async")
    assert first.status_code == 200, first.text
    assert first.headers["x-ratelimit-remaining"] == "1"
    assert client.get(f"/v1/tasks/{first.json()['task_id']}").headers["x-ratelimit-remaining"] == "1"
    speech = {"model": "a/image", "input": "word " * 3000, "voice": "alloy"}
    assert client.post("/v1/audio/speech", speech, prefer="respond-async").status_code in (400, 404)
    assert client.post("/v1/images/generations", order, prefer="respond-async").status_code == 200
    refused = client.post("/v1/images/generations", order, prefer="respond-async")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert chat(client, "openai").status_code == 429
