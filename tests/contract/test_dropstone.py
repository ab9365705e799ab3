"""Seed 000, statement by statement, against `examples/dropstone.yaml`: three tiers at cost × 1.3, a flat 402."""

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.contract.examples import WEATHER_TOOL, Client, check_chat, customer, directive, example
from tests.integration.running import Gateway, wait_until

PREFIX = "/api/v1"
TOP_UP = "https://dropstone.io/dashboard/billing"
RATES = {  # USD per million tokens, input and output: cost × 1.3, which the document rounds
    "dropstone-fast": ("0.351", "1.43"),
    "dropstone-pro": ("0.715", "2.86"),
    "dropstone-heavy": ("0.78", "3.25"),
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The example, running."""
    with example("dropstone", tmp_path_factory.mktemp("dropstone")) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: Gateway) -> Client:
    """A customer with 5 USD."""
    return customer(system, PREFIX)


def test_models_are_the_three_tiers_in_exactly_these_fields(client: Client) -> None:
    """`GET /api/v1/models`, to the letter."""
    names = {"dropstone-fast": "Dropstone Fast", "dropstone-pro": "Dropstone Pro", "dropstone-heavy": "Dropstone Heavy"}
    rows = [
        {"id": model, "object": "model", "display_name": name, "owned_by": "dropstone"} for model, name in names.items()
    ]
    answer = client.get("/models")
    written = json.dumps({"object": "list", "data": rows}, separators=(",", ":"))
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, "application/json", written)
    assert client.get("/models/dropstone-pro").json() == rows[1]
    assert client.with_key("").get("/models").status_code == 401


@pytest.mark.parametrize("model", list(RATES))
def test_a_chat_is_charged_cost_times_markup(system: Gateway, model: str) -> None:
    """`usage.cost` is what the balance went down by: the tokens at the tier's rates."""
    client = customer(system, PREFIX, credit_usd="5")
    answer = client.chat(model, "Write a haiku about debugging.")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    check_chat(body, model)
    usage, (rate_in, rate_out) = body["usage"], RATES[model]
    million = Decimal(usage["prompt_tokens"]) * Decimal(rate_in) + Decimal(usage["completion_tokens"]) * Decimal(
        rate_out
    )
    exact = (million * 1000).to_integral_value(rounding="ROUND_CEILING") / Decimal(10**9)
    cost = re.search(r'"cost": ?([0-9.]+)[,}]', answer.text)
    assert cost is not None, answer.text
    assert Decimal(cost.group(1)) == exact
    wait_until(lambda: client.balance() == 5 - exact, timeout_s=20, what="the charge is in the balance")


def test_cached_prompt_tokens_are_cheaper(client: Client) -> None:
    """They cost the provider's cached rate, a tenth of the input rate here."""
    filler = " word" * 1000
    whole = client.chat("dropstone-fast", directive(prompt_tokens=1000, output_tokens=1) + "\n" + filler).json()[
        "usage"
    ]
    script = directive(prompt_tokens=1000, cached_tokens=1000, output_tokens=1)
    cached = client.chat("dropstone-fast", script + "\n" + filler).json()["usage"]
    assert whole["cost"] == pytest.approx(0.00035243)
    assert cached["cost"] == pytest.approx(0.00003653)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"stream": False},
        {"max_tokens": 5},
        {"tools": [WEATHER_TOOL], "tool_choice": "auto"},
        {"tools": [WEATHER_TOOL], "tool_choice": "none"},
        {"tools": [WEATHER_TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    ],
    ids=str,
)
def test_every_documented_field_is_taken(client: Client, fields: Any) -> None:
    """Temperature 0 to 2, a cap on output, tools and which of them to use."""
    answer = client.chat("dropstone-fast", **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= fields.get("max_tokens", 10**6)


def test_a_stream_ends_with_usage_and_done_without_being_asked(client: Client) -> None:
    """The final chunk holds the full usage block, then `data: [DONE]`."""
    found = client.stream("dropstone-fast")
    assert found.text
    assert found.done
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in found.chunks)
    assert found.usages == [found.chunks[-1]["usage"]]
    assert {"prompt_tokens", "completion_tokens", "total_tokens", "cost"} <= set(found.usages[0])
    assert re.fullmatch(r"gen-[0-9]{10}-[0-9A-Za-z]{20}", found.chunks[0]["id"])
    unasked = client.stream("dropstone-fast", stream_options={"include_usage": False})
    assert unasked.chunks[-1]["usage"]["cost"] > 0


def test_the_openai_sdk_works(client: Client) -> None:
    """Only `base_url` is another."""
    sdk = openai.OpenAI(base_url=f"{client.system.base_url}{PREFIX}", api_key=client.key, max_retries=0)
    answer = sdk.chat.completions.create(model="dropstone-fast", messages=[{"role": "user", "content": "Hello"}])
    assert answer.choices[0].message.content
    assert [model.id for model in sdk.models.list()] == list(RATES)


def test_keys_have_their_prefix_and_43_characters_and_are_shown_once(client: Client) -> None:
    """`dsk_live_<43 chars>`, in full only in the answer that made it."""
    assert re.fullmatch(r"dsk_live_[0-9A-Za-z]{43}", client.key)
    made = client.post("/keys", {"name": "Production CI"})
    assert made.status_code == 201
    assert re.fullmatch(r"dsk_live_[0-9A-Za-z]{43}", made.json()["key"])
    listed = client.get("/keys")
    assert made.json()["id"] in listed.text
    assert made.json()["key"] not in listed.text


def test_revoking_is_immediate_and_lets_running_requests_finish(system: Gateway) -> None:
    """A stream that has begun goes on to its end; new requests get 401."""
    client = customer(system, PREFIX)
    streams: list[Any] = []
    script = directive(chunks=20, gap_ms=100, output_tokens=20)
    running = threading.Thread(target=lambda: streams.append(client.stream("dropstone-fast", script)))
    running.start()
    wait_until(lambda: client.get("/credits").json()["data"]["held"] != "0.000000000", timeout_s=20, what="it runs")
    system.admin("DELETE", f"/admin/keys/{client.key_id}")
    assert client.chat("dropstone-fast").status_code == 401
    running.join(30)
    assert (streams[0].done, len(streams[0].text.split())) == (True, 20)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}, "model"),
        ({"model": "dropstone-fast"}, "messages"),
        ({"model": "dropstone-fast", "messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "model"),
        (
            {"model": "dropstone-fast", "messages": [{"role": "user", "content": "Hi"}], "temperature": 2.1},
            "temperature",
        ),
        (b"{", None),
    ],
    ids=["bad-model", "no-messages", "empty-messages", "no-model", "hot", "no-json"],
)
def test_an_invalid_body_is_400_with_a_message(client: Client, body: Any, param: str | None) -> None:
    """`error.message` says what is wrong, `error.param` where."""
    answer = client.post("/chat/completions", body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    "key", ["", "junk", "dsk_live_" + "0" * 43, "sk-other"], ids=["none", "junk", "unknown", "foreign"]
)
def test_a_missing_or_malformed_key_is_401(client: Client, key: str) -> None:
    """In OpenAI's shape, before the body is looked at."""
    answer = client.with_key(key).post("/chat/completions", b"{")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_no_money_is_the_documents_402(system: Gateway) -> None:
    """Flat, with the balance as a number and where to top up; not to be retried."""
    client = customer(system, PREFIX, credit_usd="0")
    shown = {
        "error": "Insufficient credits",
        "balance": 0,
        "message": f"Your credit balance is empty. Top up at {TOP_UP} to continue.",
        "topUpUrl": TOP_UP,
    }
    for answer in (client.chat("dropstone-fast"), client.chat("dropstone-fast", stream=True)):
        written = json.dumps(shown, separators=(",", ":"))
        assert (answer.status_code, answer.headers["content-type"], answer.text) == (402, "application/json", written)
        assert answer.headers["x-should-retry"] == "false"
    assert client.get("/models").status_code == 200
    system.admin("POST", f"/admin/customers/{client.customer_id}/credits", amount_usd="1", reason="top-up")
    topped_up = "the customer has topped up"
    wait_until(lambda: client.chat("dropstone-fast").status_code == 200, timeout_s=20, what=topped_up)


def test_too_little_money_says_how_much_there_is(system: Gateway) -> None:
    """The same shape with the balance that is left, in plain decimals."""
    answer = customer(system, PREFIX, credit_usd="0.000001").chat("dropstone-heavy", "word " * 400)
    assert answer.status_code == 402
    assert set(answer.json()) == {"error", "balance", "message", "topUpUrl"}
    assert '"balance":0.000001,' in answer.text
    assert answer.json()["message"].endswith(f"Top up at {TOP_UP} to continue.")


@pytest.mark.parametrize("status", ["suspended", "banned"])
def test_a_suspended_or_banned_account_is_403(system: Gateway, status: str) -> None:
    """And comes back when it is active again."""
    client = customer(system, PREFIX)
    for state, wanted in ((status, 403), ("active", 200)):
        system.admin("PATCH", f"/admin/customers/{client.customer_id}", status=state)
        wait_until(lambda want=wanted: client.chat("dropstone-fast").status_code == want, timeout_s=20, what=state)


@pytest.mark.parametrize("status", [500, 502, 401])
def test_a_failing_provider_is_502(client: Client, status: int) -> None:
    """Whatever it said: the fault is not the client's."""
    answer = client.chat("dropstone-pro", directive(status=status))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "provider_error"


def test_no_rate_limit_is_enforced(client: Client) -> None:
    """Many requests in a row, none refused."""
    statuses = {client.get("/models").status_code for _ in range(70)}
    assert statuses == {200}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("DELETE", "/chat/completions", 405),
        ("POST", "/agent/run", 404),
        ("POST", "/memory/store", 404),
        ("GET", "/memory/query", 404),
    ],
)
def test_what_is_not_there_is_said_in_openais_shape(client: Client, method: str, path: str, status: int) -> None:
    """Unknown path, wrong method, and what the document announces for later."""
    answer = client.ask(method, path)
    assert answer.status_code == status
    assert list(answer.json()["error"]) == ["message", "type", "param", "code"]


def test_everything_is_mounted_under_api_v1_and_nowhere_else(client: Client) -> None:
    """A later version can land beside it."""
    for prefix in ("", "/v1", "/api/v2"):
        assert dataclasses.replace(client, prefix=prefix).get("/models").status_code == 404
