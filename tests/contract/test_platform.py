"""Seed 004, statement by statement, against `examples/platform.yaml`: credits per request, tasks instead of images."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.contract.examples import Client, check_chat, customer, directive, example
from tests.integration.running import Gateway, wait_until

PREFIX = "/api/v1"
CHAT, IMAGE = "openai/gpt-5", "google/nano-banana-pro"
PICTURE = {"model": IMAGE, "prompt": "A cinematic photo of a robot reading API docs", "size": "1024x1024"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The example, running."""
    with example("platform", tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: Gateway) -> Client:
    """A customer with 5 USD, which are 500 credits, and a key without the plan's limit."""
    return customer(system, PREFIX, requests_per_minute=100_000)


def check_error(answer: Any, status: int, code: str, message: str | None = None) -> None:
    """The consistent error body: message, type and code, the last two the same."""
    assert answer.status_code == status, answer.text
    shown = answer.json()["error"]["message"] if message is None else message
    assert shown
    assert answer.json() == {"error": {"message": shown, "type": code, "code": code}}
    assert list(answer.json()["error"]) == ["message", "type", "code"]


def test_models_are_listed_in_exactly_these_fields(client: Client) -> None:
    """`GET /api/v1/models`: the first row to the letter, the second alike."""
    answer = client.get("/models")
    assert (answer.status_code, set(answer.json()), answer.json()["object"]) == (200, {"object", "data"}, "list")
    chat, image = answer.json()["data"]
    assert chat == {
        "id": CHAT,
        "object": "model",
        "owned_by": "openrouter",
        "display_name": "GPT-5",
        "category": "chat",
        "capabilities": ["chat", "reasoning"],
        "credit_cost": 3,
    }
    fields = ["id", "object", "owned_by", "display_name", "category", "capabilities", "credit_cost"]
    assert (list(chat), list(image)) == (fields, fields)
    assert (image["id"], image["category"], type(image["credit_cost"])) == (IMAGE, "image", int)
    assert client.get(f"/models/{CHAT}").json() == chat


def test_a_chat_costs_its_models_credits(system: Gateway) -> None:
    """Three credits of 0.01 USD, however long the answer is."""
    client = customer(system, PREFIX, credit_usd="1")
    answer = client.chat(CHAT, "Write a haiku about APIs.")
    assert answer.status_code == 200, answer.text
    check_chat(answer.json(), CHAT)
    assert answer.json()["usage"]["cost"] == 0.03
    wait_until(lambda: client.balance() == Decimal("0.97"), timeout_s=20, what="three credits are gone")


def test_the_openai_sdk_works(client: Client) -> None:
    """The document's Node.js example, in Python."""
    sdk = openai.OpenAI(base_url=f"{client.system.base_url}{PREFIX}", api_key=client.key, max_retries=0)
    completion = sdk.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "Write a haiku."}])
    assert completion.choices[0].message.content


def test_an_image_request_is_answered_at_once_with_its_task(client: Client) -> None:
    """`{created, data: [], task_id, provider_task_id, status: "pending", model}`; the task ends by itself."""
    answer = client.post("/images/generations", {**PICTURE, "prompt": directive(first_byte_ms=300)})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["created", "data", "task_id", "provider_task_id", "status", "model"]
    assert (body["data"], body["status"], body["model"], type(body["created"])) == ([], "pending", IMAGE, int)

    def task() -> Any:
        found = client.get(f"/tasks/{body['task_id']}").json()
        return found if found["status"] == "succeeded" else None

    ended = wait_until(task, timeout_s=20, what="the image is made")
    assert (ended["kind"], len(ended["result"]["data"]), Decimal(ended["cost"])) == ("image", 1, Decimal("0.15"))


def test_an_image_is_pending_however_fast_it_is_made(client: Client) -> None:
    """No answer tells what became of the task meanwhile."""
    answers = [client.post("/images/generations", PICTURE).json() for _ in range(6)]
    assert [(each["status"], each["data"]) for each in answers] == [("pending", [])] * 6


def test_who_asks_to_wait_waits(client: Client) -> None:
    """`Prefer: wait` is heard here too."""
    answer = client.post("/images/generations", PICTURE, prefer="wait=20")
    assert answer.json()["data"][0]["url"].startswith("http")


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, "model_required"),
        ("/chat/completions", {"model": "", "messages": [{"role": "user", "content": "Hi"}]}, "model_required"),
        ("/chat/completions", {"model": CHAT}, "messages_required"),
        ("/chat/completions", {"model": CHAT, "messages": []}, "messages_required"),
        ("/images/generations", {"prompt": "A robot"}, "model_required"),
        ("/images/generations", {"model": IMAGE}, "prompt_required"),
        ("/images/generations", {"model": IMAGE, "prompt": ""}, "prompt_required"),
        ("/chat/completions", b"{", "invalid_request"),
        (
            "/chat/completions",
            {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}], "temperature": 3},
            "invalid_request",
        ),
    ],
    ids=[
        "no-model",
        "empty-model",
        "no-messages",
        "empty-messages",
        "image-no-model",
        "no-prompt",
        "empty-prompt",
        "no-json",
        "hot",
    ],
)
def test_what_is_required_has_a_code_of_its_own(client: Client, path: str, body: Any, code: str) -> None:
    """`model_required`, `messages_required`, `prompt_required`; the rest is an invalid request."""
    check_error(client.post(path, body), 400, code)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/chat/completions", "openai/gpt-4"),
        ("/chat/completions", IMAGE),
        ("/images/generations", "openai/dall-e"),
        ("/images/generations", CHAT),
    ],
)
def test_only_models_of_the_registry_can_be_used(client: Client, path: str, model: str) -> None:
    """The document's own error, also for a model that is for something else."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "prompt": "A robot"}
    check_error(client.post(path, body), 400, "model_not_available", "Model is not available")


def test_a_missing_or_wrong_key_is_invalid_api_key(client: Client) -> None:
    """401."""
    for key in ("", "junk", "sk_live_" + "0" * 43):
        check_error(client.with_key(key).chat(CHAT), 401, "invalid_api_key")
        check_error(client.with_key(key).get("/models"), 401, "invalid_api_key")
        check_error(client.with_key(key).post("/images/generations", PICTURE), 401, "invalid_api_key")


def test_a_suspended_customer_is_api_disabled(system: Gateway) -> None:
    """403."""
    client = customer(system, PREFIX)
    system.admin("PATCH", f"/admin/customers/{client.customer_id}", status="suspended")
    wait_until(lambda: client.chat(CHAT).status_code == 403, timeout_s=20, what="the customer is suspended")
    check_error(client.chat(CHAT), 403, "api_disabled")


def test_too_few_credits_are_refused_before_execution(system: Gateway) -> None:
    """402 for chats and images; nothing is charged."""
    client = customer(system, PREFIX, credit_usd="0.02")
    check_error(client.chat(CHAT), 402, "insufficient_credits", "You do not have enough credits.")
    check_error(client.post("/images/generations", PICTURE), 402, "insufficient_credits")
    assert client.balance() == Decimal("0.02")
    assert client.get("/tasks").json()["data"] == []


def test_a_failing_provider_is_provider_error(client: Client) -> None:
    """502."""
    check_error(client.chat(CHAT, directive(status=500)), 502, "provider_error")


def test_videos_are_not_part_of_the_api(client: Client) -> None:
    """404, as for any path that is not there."""
    for path in ("/videos", "/videos/7", "/music", "/nothing"):
        check_error(client.post(path, {}), 404, "not_found")
    check_error(client.get("/chat/completions"), 405, "method_not_allowed")
    check_error(client.post("/chat/completions", b" " * ((20 << 20) + 1)), 413, "request_too_large")


def test_keys_are_shown_once_and_listed_by_a_short_prefix(client: Client) -> None:
    """`sk_live_…`, with a per-minute rate limit field."""
    assert re.fullmatch(r"sk_live_[0-9A-Za-z]{43}", client.key)
    listed = client.get("/keys").json()["data"]
    own = next(row for row in listed if row["id"] == client.key_id)
    assert client.key not in str(listed)
    assert client.key.startswith(own["prefix"])
    assert len(own["prefix"]) < 20
    assert own["requests_per_minute"] == 100_000


def test_requests_are_logged(client: Client) -> None:
    """With request id, key, model, status, latency and what was charged."""
    made = client.chat(CHAT)
    request_id = made.headers["x-request-id"]
    row = wait_until(
        lambda: next((each for each in client.get("/requests").json()["data"] if each["id"] == request_id), None),
        timeout_s=20,
        what="the request is in the log",
    )
    assert (row["key_id"], row["model"], row["status"]) == (client.key_id, CHAT, 200)
    assert row["latency_ms"] >= 0
    assert Decimal(row["charge"]) == Decimal("0.03")
