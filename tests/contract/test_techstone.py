"""Seed 001, statement by statement, against `examples/techstone.yaml`: `…_error` types, 403 for no money, 503."""

import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.contract.examples import Client, check_chat, customer, directive, example
from tests.integration.running import Gateway, wait_until

PREFIX = "/v1"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The example, running."""
    with example("techstone", tmp_path_factory.mktemp("techstone")) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: Gateway) -> Client:
    """A customer with 5 USD, on the plan without limits."""
    made = customer(system, PREFIX)
    system.admin("PATCH", f"/admin/customers/{made.customer_id}", plan="enterprise")
    return made


def check_error(answer: Any, status: int, type_: str, code: str, param: str | None = None) -> None:
    """The document's error format, field by field, with its headers."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert list(error) == ["type", "code", "message", "param"]
    assert (error["type"], error["code"], error["param"]) == (type_, code, param)
    assert error["message"]
    check_limits(answer)


def check_limits(answer: Any) -> None:
    """`X-RateLimit-Remaining` and `X-RateLimit-Reset` are in every response."""
    assert re.fullmatch(r"\d+", answer.headers["x-ratelimit-remaining"])
    assert abs(int(answer.headers["x-ratelimit-reset"]) - time.time()) < 3600


def test_the_documents_request_is_answered_in_its_shape(client: Client) -> None:
    """System and user message, temperature, max_tokens, top_p, stream false."""
    body = {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the Token economy?"},
        ],
        "temperature": 0.7,
        "max_tokens": 1024,
        "top_p": 1,
        "stream": False,
    }
    answer = client.post("/chat/completions", body)
    assert answer.status_code == 200, answer.text
    check_chat(answer.json(), "gpt-4o")
    check_limits(answer)


def test_a_stream_is_chunks_and_done(client: Client) -> None:
    """`data:` lines of chunks, then `data: [DONE]`; usage only for who asks."""
    found = client.stream("gpt-4o")
    assert found.text
    assert found.done
    assert {chunk["object"] for chunk in found.chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in found.chunks}) == 1
    assert "delta" in found.chunks[0]["choices"][0]
    assert found.usages == []
    assert all(chunk["choices"] for chunk in found.chunks)
    assert found.chunks[0]["id"].startswith("chatcmpl-")
    asked = client.stream("gpt-4o", stream_options={"include_usage": True})
    assert len(asked.usages) == 1
    assert found.headers["x-ratelimit-remaining"].isdigit()
    assert found.headers["x-ratelimit-reset"].isdigit()


@pytest.mark.parametrize("path", ["", PREFIX], ids=["bare", "versioned"])
def test_the_openai_sdk_works(client: Client, path: str) -> None:
    """With another base URL, whole and streamed: with or without the version, as the document's snippets have it."""
    sdk = openai.OpenAI(base_url=f"{client.system.base_url}{path}", api_key=client.key, max_retries=0)
    messages: Any = [{"role": "user", "content": "Write a poem about AI"}]
    assert sdk.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content
    parts = [
        chunk.choices[0].delta.content or ""
        for chunk in sdk.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    ]
    assert "".join(parts)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "model"),
        ({"model": "gpt-4o"}, "messages"),
        ({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "top_p": 1.5}, "top_p"),
        ({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 0}, "max_tokens"),
        (b"not json", None),
    ],
    ids=["no-model", "no-messages", "top-p", "max-tokens", "no-json"],
)
def test_400_malformed_or_missing_parameters(client: Client, body: Any, param: str | None) -> None:
    """`invalid_request_error`, with the field in `param`."""
    check_error(client.post("/chat/completions", body), 400, "invalid_request_error", "invalid_request", param)


@pytest.mark.parametrize("key", ["", "junk"], ids=["missing", "invalid"])
def test_401_invalid_or_missing_key(client: Client, key: str) -> None:
    """`authentication_error`."""
    check_error(client.with_key(key).chat("gpt-4o"), 401, "authentication_error", "invalid_api_key")


def test_403_no_money(system: Gateway) -> None:
    """`insufficient_balance`: no 402 is in the document."""
    answer = customer(system, PREFIX, credit_usd="0").chat("gpt-4o")
    check_error(answer, 403, "permission_error", "insufficient_balance")


def test_403_key_without_permission(system: Gateway) -> None:
    """For another model, or of a suspended customer."""
    limited = customer(system, PREFIX, models=["gpt-4o-mini"])
    check_error(limited.chat("gpt-4o"), 403, "permission_error", "model_not_allowed", "model")
    client = customer(system, PREFIX)
    system.admin("PATCH", f"/admin/customers/{client.customer_id}", status="suspended")
    wait_until(lambda: client.chat("gpt-4o").status_code == 403, timeout_s=20, what="the customer is suspended")
    check_error(client.chat("gpt-4o"), 403, "permission_error", "customer_suspended")


def test_404_no_such_model_or_endpoint(client: Client) -> None:
    """`not_found_error` for both."""
    check_error(client.chat("gpt-99"), 404, "not_found_error", "model_not_found", "model")
    check_error(client.post("/nothing", {}), 404, "not_found_error", "not_found")
    check_error(dataclasses.replace(client, prefix="").get("/nothing"), 404, "not_found_error", "not_found")


def test_405_and_413_are_in_its_style(client: Client) -> None:
    """What the document does not list ends in `_error` too."""
    check_error(client.get("/chat/completions"), 405, "method_not_allowed_error", "method_not_allowed")
    huge = b'{"model": "gpt-4o", "messages": "' + b"x" * (20 << 20) + b'"}'
    check_error(client.post("/chat/completions", huge), 413, "request_too_large_error", "request_too_large")


@pytest.mark.parametrize("status", [500, 503, 403])
def test_503_when_the_provider_fails(client: Client, status: int) -> None:
    """`overloaded_error`, and when to try again."""
    answer = client.chat("gpt-4o", directive(status=status))
    check_error(answer, 503, "overloaded_error", "provider_error")
    assert int(answer.headers["retry-after"]) >= 1


def test_models_are_listed_in_the_plain_fields(client: Client) -> None:
    """The document shows no list; this is what all lists have."""
    answer = client.get("/models")
    assert answer.json() == {"object": "list", "data": [{"id": "gpt-4o", "object": "model", "owned_by": "openai"}]}
    check_limits(answer)


def test_a_customer_begins_on_pay_as_you_go(system: Gateway) -> None:
    """The three plans are there; the limits of the first are what a new customer gets."""
    made = system.admin("POST", "/admin/customers", name="new")
    assert made["plan"] == "pay-as-you-go"
    for plan in ("pro", "enterprise"):
        changed = system.admin("PATCH", f"/admin/customers/{made['id']}", plan=plan)
        assert changed["plan"] == plan
