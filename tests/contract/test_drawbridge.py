"""Seed 003, statement by statement, against `examples/drawbridge.yaml`: OpenAI's API over two accounts with slots."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.examples import WEATHER_TOOL, Client, check_chat, customer, directive, example
from tests.integration.running import Gateway, wait_until

PREFIX = "/v1"
ADMIN_TOKEN = "drawbridge-admin-token"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The example, running, its admin token from the environment."""
    with example("drawbridge", tmp_path_factory.mktemp("drawbridge"), DRAWBRIDGE_ADMIN_TOKEN=ADMIN_TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: Gateway) -> Client:
    """A customer with 5 USD and a key without the default limit of 60 per minute."""
    return customer(system, PREFIX, requests_per_minute=100_000)


def admin(system: Gateway, method: str, path: str, *, token: str = ADMIN_TOKEN, body: Any = None) -> httpx.Response:
    """A call of the admin API."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.request(method, f"{system.base_url}/admin{path}", headers=headers, json=body, timeout=10)


def test_models_are_listed_in_exactly_these_fields(client: Client) -> None:
    """`GET /v1/models`, to the letter."""
    answer = client.get("/models")
    row = {"id": "kiro", "object": "model", "owned_by": "drawbridge"}
    assert (answer.status_code, answer.json()) == (200, {"object": "list", "data": [row]})


def test_the_documents_request_streams(client: Client) -> None:
    """System message, temperature, a tool; chunks with an index, the last one says `stop`, then `[DONE]`."""
    body = {
        "model": "kiro",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello!"},
        ],
        "stream": True,
        "temperature": 0.7,
        "tools": [WEATHER_TOOL],
    }
    answer = client.post("/chat/completions", body)
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    found = client.stream("kiro", temperature=0.7, tools=[WEATHER_TOOL])
    assert all(list(chunk)[:2] == ["id", "object"] for chunk in found.chunks)
    assert all(chunk["id"].startswith("chatcmpl-") for chunk in found.chunks)
    choices = [chunk["choices"][0] for chunk in found.chunks]
    assert all(set(choice["delta"]) == {"content"} for choice in choices[1:-1])
    assert {choice["index"] for choice in choices} == {0}
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert (choices[-1]["finish_reason"], choices[-1]["delta"]) == ("stop", {})
    assert found.usages == []


def test_a_whole_answer_has_the_documents_shape(client: Client) -> None:
    """Without `stream`."""
    answer = client.chat("kiro", "Hello!")
    assert answer.status_code == 200, answer.text
    check_chat(answer.json(), "kiro")


def test_any_client_built_for_openai_works(client: Client) -> None:
    """With zero modifications."""
    sdk = openai.OpenAI(base_url=f"{client.system.base_url}{PREFIX}", api_key=client.key, max_retries=0)
    answer = sdk.chat.completions.create(model="kiro", messages=[{"role": "user", "content": "Hello!"}])
    assert answer.choices[0].message.content
    assert [model.id for model in sdk.models.list()] == ["kiro"]


@pytest.mark.parametrize(
    ("key", "body", "status", "param"),
    [
        ("", {"model": "kiro", "messages": [{"role": "user", "content": "Hi"}]}, 401, None),
        ("db-junk", {"model": "kiro", "messages": [{"role": "user", "content": "Hi"}]}, 401, None),
        (None, {"model": "none", "messages": [{"role": "user", "content": "Hi"}]}, 404, "model"),
        (None, {"model": "kiro"}, 400, "messages"),
        (None, {"messages": [{"role": "user", "content": "Hi"}]}, 400, "model"),
    ],
    ids=["no-key", "wrong-key", "no-such-model", "no-messages", "no-model"],
)
def test_errors_are_openais(client: Client, key: str | None, body: Any, status: int, param: str | None) -> None:
    """`{error: {message, type, param, code}}`."""
    asking = client if key is None else client.with_key(key)
    answer = asking.post("/chat/completions", body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()["error"]) == ["message", "type", "param", "code"]
    if param:
        assert answer.json()["error"]["param"] == param


def test_no_money_is_402_and_a_failing_provider_502(system: Gateway, client: Client) -> None:
    """As with OpenAI's own words."""
    poor = customer(system, PREFIX, credit_usd="0").chat("kiro")
    assert (poor.status_code, poor.json()["error"]["code"]) == (402, "insufficient_credits")
    broken = client.chat("kiro", directive(status=500))
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "provider_error")


def test_health_counts_accounts_and_slots(system: Gateway, client: Client) -> None:
    """Two accounts with three slots each; a running request takes one."""
    idle = {"status": "healthy", "accounts": 2, "total_slots": 6, "available_slots": 6}

    def health() -> Any:
        return httpx.get(f"{system.base_url}/health").json()

    wait_until(lambda: health() == idle, timeout_s=20, what="all slots are free")
    assert list(health()) == list(idle)
    script = directive(chunks=25, gap_ms=100, output_tokens=25)
    running = [threading.Thread(target=client.stream, args=("kiro", script)) for _ in range(2)]
    for each in running:
        each.start()
    wait_until(lambda: health()["available_slots"] == 4, timeout_s=20, what="two slots are taken")
    for each in running:
        each.join(30)
    wait_until(lambda: health() == idle, timeout_s=20, what="all slots are free again")


def test_health_knows_about_draining(system: Gateway) -> None:
    """503 and `draining` until it ends."""
    assert admin(system, "POST", "/drain").status_code == 200
    try:
        answer = httpx.get(f"{system.base_url}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    finally:
        admin(system, "POST", "/undrain")
    assert httpx.get(f"{system.base_url}/health").json()["status"] == "healthy"


def test_metrics_are_the_documents(system: Gateway, client: Client) -> None:
    """`drawbridge_requests_total` by model and status, and the duration's buckets, in the text format."""
    client.chat("kiro")
    client.chat("kiro", directive(status=500))
    answer = httpx.get(f"{system.base_url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for line in (
        "# HELP drawbridge_requests_total Total requests processed",
        "# TYPE drawbridge_requests_total counter",
        "# HELP drawbridge_request_duration_seconds Request duration",
        "# TYPE drawbridge_request_duration_seconds histogram",
    ):
        assert line in answer.text.splitlines()
    for sample in (
        r'drawbridge_requests_total\{model="kiro",status="success"\} \d+$',
        r'drawbridge_requests_total\{model="kiro",status="error"\} \d+$',
        r'drawbridge_request_duration_seconds_bucket\{le="5"\} \d+$',
        r'drawbridge_request_duration_seconds_bucket\{le="30"\} \d+$',
        r'drawbridge_request_duration_seconds_bucket\{le="60"\} \d+$',
    ):
        assert re.search(sample, answer.text, re.MULTILINE), sample
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {name.partition("_")[0] for name in names} == {"drawbridge", "process"}


@pytest.mark.parametrize("service", ["edge", "auth", "router", "billing", "tasks"])
def test_the_metrics_prefix_holds_in_every_service(system: Gateway, service: str) -> None:
    """But for what Prometheus itself names: memory and CPU of the process."""
    address = next(each["metrics"] for each in system.ready["services"] if each["name"] == service)
    text = httpx.get(f"http://{address}/metrics").text
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {name.partition("_")[0] for name in names} == {"drawbridge", "process"}


def test_the_admin_token_is_drawbridges(system: Gateway, client: Client) -> None:
    """From `DRAWBRIDGE_ADMIN_TOKEN`; without it, with another or with a customer's key: 401."""
    assert admin(system, "GET", "/keys").status_code == 200
    assert system.ready["admin_token"] == ADMIN_TOKEN
    guarded = [("POST", "/keys"), ("GET", "/keys"), ("DELETE", "/keys/7"), ("GET", "/accounts"), ("GET", "/usage")]
    for token in ("", "other", client.key):
        for method, path in (*guarded, ("GET", "/metrics")):
            answer = admin(system, method, path, token=token)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert admin(system, "DELETE", "/keys/7").status_code == 404


def test_admin_creates_lists_and_revokes_keys(system: Gateway) -> None:
    """`POST /admin/keys` (prefix `db-`, its own rate limit), `GET`, `DELETE /admin/keys/:id`."""
    made = admin(system, "POST", "/keys", body={"name": "ci", "requests_per_minute": 600})
    assert made.is_success, made.text
    key = made.json()
    assert key["key"].startswith("db-")
    assert key["requests_per_minute"] == 600
    client = Client(system=system, prefix=PREFIX, key=key["key"])
    assert client.get("/models").status_code == 200
    listed = admin(system, "GET", "/keys").json()
    assert listed["object"] == "list"
    assert key["id"] in [row["id"] for row in listed["data"]]
    assert key["key"] not in str(listed)
    assert admin(system, "DELETE", f"/keys/{key['id']}").is_success
    assert client.get("/models").status_code == 401


def test_admin_sees_accounts_usage_and_metrics(system: Gateway, client: Client) -> None:
    """Status and slots of the pool, what was used and charged, and the metrics as JSON."""
    client.chat("kiro")
    accounts = admin(system, "GET", "/accounts").json()["data"]
    assert [row["id"] for row in accounts] == ["kiro-a", "kiro-b"]
    assert all({"provider", "state", "slots", "in_use", "cooled_until", "error_rate"} <= set(row) for row in accounts)
    assert {row["slots"] for row in accounts} == {3}

    def used() -> Any:
        rows = admin(system, "GET", "/usage?group_by=model").json()["data"]
        return next((row for row in rows if row["model"] == "kiro" and row["requests"]), None)

    assert {"prompt_tokens", "completion_tokens", "charge"} <= set(wait_until(used, timeout_s=20, what="it is counted"))
    metrics = admin(system, "GET", "/metrics")
    assert metrics.headers["content-type"] == "application/json"
    assert "drawbridge_requests" in {metric["name"] for metric in metrics.json()["data"]}
