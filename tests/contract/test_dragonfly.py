"""Seed 002, statement by statement, against `examples/dragonfly.yaml`: vendors' models, a public price list, USDT."""

import datetime
import json
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.contract.examples import WEATHER_TOOL, Client, check_chat, customer, directive, example
from tests.integration.running import Gateway, wait_until

PREFIX = "/v1"
CHAT = "deepseek/deepseek-chat"
PRICES = {  # USD per million tokens, input and output
    "deepseek/deepseek-chat": ("0.50", "1.50"),
    "deepseek/deepseek-reasoner": ("2.00", "8.00"),
    "qwen/qwen3-235b-a22b": ("1.00", "4.00"),
    "qwen/qwen3-30b-a3b": ("0.50", "2.00"),
    "moonshot/kimi-k2": ("1.00", "4.00"),
    "zhipu/glm-5-0131": ("1.00", "4.00"),
    "doubao/doubao-1.5-pro-256k": ("0.30", "0.90"),
}
OTHERS = {"deepseek/janus-pro-7b": {"image"}, "qwen/wan2.1-t2v": {"second"}}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The example, running."""
    with example("dragonfly", tmp_path_factory.mktemp("dragonfly")) as running:
        yield running


@pytest.fixture(scope="module")
def client(system: Gateway) -> Client:
    """A customer with 5 USD on top of the welcome credit, on the plan without limits."""
    made = customer(system, PREFIX)
    system.admin("PATCH", f"/admin/customers/{made.customer_id}", plan="enterprise")
    return made


def check_error(answer: Any, status: int, type_: str, message: str | None = None) -> None:
    """`{error: {message, type, code}}` with the status as code; rate limit headers in every response."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert list(error)[:3] == ["message", "type", "code"]
    assert (error["type"], error["code"]) == (type_, status)
    assert error["message"]
    assert message is None or error["message"] == message
    check_limits(answer)


def check_limits(answer: Any) -> None:
    """`X-RateLimit-Remaining` and `X-RateLimit-Reset`."""
    assert re.fullmatch(r"\d+", answer.headers["x-ratelimit-remaining"])
    assert abs(int(answer.headers["x-ratelimit-reset"]) - time.time()) < 3600


def test_a_new_customer_has_one_dollar(system: Gateway) -> None:
    """ "You get $1 free credit"."""
    assert customer(system, PREFIX, credit_usd="0").balance() == 1


def test_keys_begin_with_their_prefix(client: Client) -> None:
    """`sk-df-`."""
    assert client.key.startswith("sk-df-")


def test_models_and_prices_are_public(system: Gateway) -> None:
    """No key needed; exactly the documented fields; prices in USD per 1,000 tokens as numbers."""
    answer = httpx.get(f"{system.base_url}{PREFIX}/models")
    assert answer.status_code == 200
    check_limits(answer)
    listing = answer.json()
    assert (set(listing), listing["object"]) == ({"object", "data"}, "list")
    rows = {row["id"]: row for row in listing["data"]}
    assert {*PRICES, *OTHERS} <= set(rows)
    assert rows[CHAT] == {
        "id": CHAT,
        "object": "model",
        "owned_by": "deepseek",
        "pricing": {"input": 0.0005, "output": 0.0015},
    }
    assert all(list(row) == ["id", "object", "owned_by", "pricing"] for row in rows.values())
    for model, (rate_in, rate_out) in PRICES.items():
        shown = rows[model]["pricing"]
        assert shown == {"input": float(rate_in) / 1000, "output": float(rate_out) / 1000}
        assert rows[model]["owned_by"] == model.split("/")[0]
    assert {model: set(rows[model]["pricing"]) for model in OTHERS} == OTHERS
    assert httpx.get(f"{system.base_url}{PREFIX}/models/{CHAT}").json() == rows[CHAT]


def test_a_wrong_key_is_refused_even_where_none_is_needed(client: Client) -> None:
    """A typo in a key should be found at the first call."""
    check_error(client.with_key("sk-df-wrong").get("/models"), 401, "unauthorized")


@pytest.mark.parametrize("model", list(PRICES))
def test_a_chat_costs_its_models_price(client: Client, model: str) -> None:
    """Every chat model of the table, at its price per million tokens."""
    answer = client.chat(model, directive(output_tokens=200))
    assert answer.status_code == 200, answer.text
    check_chat(answer.json(), model)
    usage, (rate_in, rate_out) = answer.json()["usage"], PRICES[model]
    nano = 1000 * (usage["prompt_tokens"] * Decimal(rate_in) + usage["completion_tokens"] * Decimal(rate_out))
    assert usage["cost"] == pytest.approx(float(nano.to_integral_value(rounding="ROUND_CEILING")) / 1e9)
    check_limits(answer)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7, "max_tokens": 1024},
        {"temperature": 2},
        {"top_p": 0.5},
        {"stop": "END"},
        {"stop": ["a", "b"]},
        {"frequency_penalty": -2},
        {"presence_penalty": 2},
        {"tools": [WEATHER_TOOL], "tool_choice": "auto"},
        {"tools": [WEATHER_TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    ],
    ids=str,
)
def test_every_documented_parameter_is_taken(client: Client, fields: Any) -> None:
    """All eleven of the table, within their ranges."""
    assert client.chat(CHAT, **fields).status_code == 200


def test_a_stop_sequence_ends_the_answer(client: Client) -> None:
    """In both formats, which name it each in their own way."""
    script = directive(text="one two three")
    choice = client.chat(CHAT, script, stop=["none", "two"]).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one ", "stop")
    body = {"model": CHAT, "max_tokens": 64, "messages": [{"role": "user", "content": script}]}
    message = client.post("/messages", body | {"stop_sequences": ["none", "two"]}).json()
    assert (message["content"][0]["text"], message["stop_reason"]) == ("one ", "stop_sequence")
    assert message["stop_sequence"] == "two"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"model": "deepseek/none"}, "deepseek/none"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=str,
)
def test_400_bad_request_names_what_is_wrong(client: Client, fields: Any, named: str) -> None:
    """Missing, unknown or out of range: in the message too."""
    body = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}]} | fields
    sent = {name: value for name, value in body.items() if value is not None}
    answer = client.post("/chat/completions", sent)
    check_error(answer, 400, "bad_request")
    assert named in answer.json()["error"]["message"]


def test_a_stream_is_chunks_and_done(client: Client) -> None:
    """Server-sent events in OpenAI's shape."""
    found = client.stream(CHAT)
    assert found.text
    assert (found.done, found.usages) == (True, [])
    assert found.headers["x-ratelimit-remaining"].isdigit()


def test_the_openai_sdk_works(client: Client) -> None:
    """ "Use any OpenAI-compatible SDK. Just change the base URL."."""
    sdk = openai.OpenAI(base_url=f"{client.system.base_url}{PREFIX}", api_key=client.key, max_retries=0)
    answer = sdk.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "Hello!"}])
    assert answer.choices[0].message.content


def test_401_unauthorized(client: Client) -> None:
    """Missing or invalid key."""
    for key in ("", "junk"):
        check_error(client.with_key(key).chat(CHAT), 401, "unauthorized")


def test_403_insufficient_balance_is_the_documents_example(system: Gateway) -> None:
    """`{"message": "Insufficient balance", "type": "forbidden", "code": 403}`."""
    client = customer(system, PREFIX, credit_usd="0")
    system.admin("POST", f"/admin/customers/{client.customer_id}/credits", amount_usd="-1", reason="test")
    answer = client.chat(CHAT)
    check_error(answer, 403, "forbidden", "Insufficient balance")
    assert answer.json()["error"]["reason"] == "insufficient_credits"


def test_403_without_permission(system: Gateway) -> None:
    """A key for other models, a suspended customer."""
    check_error(customer(system, PREFIX, models=["moonshot/kimi-k2"]).chat(CHAT), 403, "forbidden")
    client = customer(system, PREFIX)
    system.admin("PATCH", f"/admin/customers/{client.customer_id}", status="suspended")
    wait_until(lambda: client.chat(CHAT).status_code == 403, timeout_s=20, what="the customer is suspended")
    check_error(client.chat(CHAT), 403, "forbidden")


@pytest.mark.parametrize(("model", "status"), [("zhipu/glm-5-0131", 500), ("doubao/doubao-1.5-pro-256k", 401)])
def test_502_upstream_error(client: Client, model: str, status: int) -> None:
    """Whatever the provider said: the fault is not the client's."""
    check_error(client.chat(model, directive(status=status)), 502, "upstream_error")


def test_a_provider_that_limits_us_is_no_429(client: Client) -> None:
    """The limit is not the client's: 503 with a time to come again."""
    answer = client.chat("qwen/qwen3-30b-a3b", directive(status=429, retry_after_s=1))
    check_error(answer, 503, "service_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_model_for_something_else_is_an_unknown_one(client: Client) -> None:
    """Nobody can chat with a video model."""
    check_error(client.chat("qwen/wan2.1-t2v"), 400, "bad_request")


def test_images_are_made_while_the_client_waits(client: Client) -> None:
    """The image model of the table."""
    answer = client.post("/images/generations", {"model": "deepseek/janus-pro-7b", "prompt": "A dragonfly"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["url"].startswith("http")


def test_what_is_not_listed_is_said_in_its_style(client: Client) -> None:
    """404, 405 and 413."""
    check_error(client.get("/nothing"), 404, "not_found")
    check_error(client.get("/chat/completions"), 405, "method_not_allowed")
    check_error(client.post("/chat/completions", b" " * ((20 << 20) + 1)), 413, "request_too_large")


def test_a_crypto_payment_is_asked_for_in_cents(client: Client) -> None:
    """1000 cents are 10.00 USDT; whoever pays the same at the same time is told from it by a few digits more."""
    answer = client.post("/billing/crypto/create-payment", {"amount_cents": 1000})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert list(made)[:5] == ["payment_id", "amount_usdt", "address", "network", "expires_at"]
    assert made["payment_id"].startswith("pay_")
    assert made["amount_usdt"] == "10.00"
    another = client.post("/billing/crypto/create-payment", {"amount_cents": 1000}).json()
    assert re.fullmatch(r"10\.00[0-9]{4}", another["amount_usdt"])
    assert re.fullmatch(r"T[1-9A-HJ-NP-Za-km-z]{33}", made["address"])
    assert made["network"] == "TRC-20"
    until = datetime.datetime.strptime(made["expires_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    assert until > datetime.datetime.now(datetime.UTC)
    seen = client.get(f"/billing/payments/{made['payment_id']}").json()
    assert (seen["id"], seen["status"], Decimal(seen["amount_usd"])) == (made["payment_id"], "pending", 10)


@pytest.mark.parametrize(
    "body",
    [{}, {"amount_cents": 0}, {"amount_cents": 10.5}, {"amount_cents": "1000"}, {"amount_cents": 10**9}],
    ids=str,
)
def test_a_payment_needs_whole_cents(client: Client, body: Any) -> None:
    """400 with the field in the message."""
    answer = client.post("/billing/crypto/create-payment", body)
    check_error(answer, 400, "bad_request")
    assert "amount_cents" in answer.json()["error"]["message"] + str(answer.json()["error"].get("param"))


def test_the_four_plans_are_there(system: Gateway) -> None:
    """A new customer is on the free one."""
    made = system.admin("POST", "/admin/customers", name="new")
    assert made["plan"] == "free"
    for plan in ("starter", "pro", "enterprise"):
        assert system.admin("PATCH", f"/admin/customers/{made['id']}", plan=plan)["plan"] == plan


def test_the_anthropic_sdk_works(client: Client) -> None:
    """ "Use any Anthropic SDK pointed at Dragonfly": the root as base URL, the key in `x-api-key`."""
    sdk = anthropic.Anthropic(base_url=client.system.base_url, api_key=client.key, max_retries=0)
    ask: Any = {"model": CHAT, "max_tokens": 1024, "messages": [{"role": "user", "content": "Hello!"}]}
    message = sdk.messages.create(**ask)
    assert (message.type, message.role, message.model) == ("message", "assistant", CHAT)
    assert isinstance(message.content[0], anthropic.types.TextBlock)
    assert message.content[0].text
    with sdk.messages.stream(**ask) as stream:
        assert "".join(stream.text_stream)
    assert sdk.messages.count_tokens(model=CHAT, messages=ask["messages"]).input_tokens > 0
    with pytest.raises(anthropic.AuthenticationError):
        sdk.with_options(api_key="sk-df-wrong").messages.create(**ask)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        sdk.messages.create(**ask, extra_body={"temperature": 1.01})


def test_a_streamed_message_has_anthropics_events_in_their_order(client: Client) -> None:
    """From `message_start` to `message_stop`, each named twice."""
    body = {"model": CHAT, "max_tokens": 64, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    answer = client.post("/messages", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in answer.text.split("\n\n") if event]
    names = [name.removeprefix("event: ") for name, _ in events]
    assert [json.loads(data.removeprefix("data: "))["type"] for _, data in events] == names
    spoken = [name for name in names if name not in ("ping", "content_block_delta")]
    assert spoken == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
    check_limits(answer)


def test_both_formats_cost_the_same(client: Client) -> None:
    """ "Same models, same pricing"."""
    chat = client.chat(CHAT, "Hello!").json()["usage"]
    body = {"model": CHAT, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello!"}]}
    message = client.post("/messages", body).json()["usage"]
    assert (message["input_tokens"], message["output_tokens"]) == (chat["prompt_tokens"], chat["completion_tokens"])
    assert message["cost"] == chat["cost"]


@pytest.mark.parametrize(
    "fields",
    [{"system": "You are terse."}, {"temperature": 1}, {"stop_sequences": ["END"]}, {"stream": False}],
    ids=str,
)
def test_every_documented_field_of_a_message_is_taken(client: Client, fields: Any) -> None:
    """System, temperature 0 to 1, stop sequences; same models, same prices."""
    body = {"model": CHAT, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello!"}]} | fields
    answer = client.post("/messages", body)
    assert answer.status_code == 200, answer.text
    check_limits(answer)


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"max_tokens": None}, 400), ({"messages": None}, 400), ({"temperature": 1.5}, 400), ({"model": "none"}, 400)],
    ids=str,
)
def test_a_wrong_message_is_told_in_anthropics_words(client: Client, fields: Any, status: int) -> None:
    """The dialect's status with Anthropic's body."""
    body = {"model": CHAT, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello!"}]} | fields
    answer = client.post("/messages", {name: value for name, value in body.items() if value is not None})
    assert answer.status_code == status
    assert (answer.json()["type"], set(answer.json()["error"])) == ("error", {"type", "message"})


def test_no_money_for_a_message_is_a_billing_error(system: Gateway) -> None:
    """403, as for chats."""
    client = customer(system, PREFIX, credit_usd="0")
    system.admin("POST", f"/admin/customers/{client.customer_id}/credits", amount_usd="-1", reason="test")
    body = {"model": CHAT, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello!"}]}
    answer = client.post("/messages", body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "billing_error")


@pytest.mark.parametrize("name", ["audio.mp3", "audio.wav", "audio.m4a", "audio.webm"])
@pytest.mark.parametrize("fields", [{"model": "whisper-1"}, {}, {"language": "en"}], ids=str)
def test_sound_is_transcribed(client: Client, name: str, fields: Any) -> None:
    """`file`, and optionally `model` (whisper-1 by default) and `language`; the answer has the `text`."""
    answer = transcribe(client, {"file": (name, b"sound" * 100)}, fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"]
    check_limits(answer)


def test_a_transcription_needs_a_file_and_a_key(client: Client) -> None:
    """In dragonfly's own shape."""
    check_error(transcribe(client, {"other": ("a.mp3", b"sound")}, {"model": "whisper-1"}), 400, "bad_request")
    check_error(transcribe(client.with_key("junk"), {"file": ("a.mp3", b"sound")}, {}), 401, "unauthorized")


def transcribe(client: Client, files: Any, fields: Any) -> httpx.Response:
    """A multipart request, as `curl -F` sends it."""
    url, headers = f"{client.system.base_url}{PREFIX}/audio/transcriptions", {"authorization": f"Bearer {client.key}"}
    return httpx.post(url, files=files, data=fields, headers=headers, timeout=20)


@pytest.mark.parametrize("fields", [{"voice": "alloy"}, {}, {"speed": 0.25}, {"speed": 4.0}], ids=str)
def test_text_is_spoken(client: Client, fields: Any) -> None:
    """`model` and `input`, and optionally `voice` and `speed`; what comes is a file with its limits in the head."""
    answer = client.post("/audio/speech", {"model": "tts-1", "input": "Hello world", **fields})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg"), answer.text
    assert answer.content[:1] == b"\xff"
    check_limits(answer)


def test_what_can_not_be_spoken_is_told_in_its_shape(client: Client) -> None:
    """Also what only the provider knows."""
    for wrong in ({"input": ""}, {"speed": 4.1}, {"speed": 0.2}, {"voice": "nobody"}, {"input": None}):
        answer = client.post("/audio/speech", {"model": "tts-1", "input": "Hello world", **wrong})
        check_error(answer, 400, "bad_request")
        assert next(iter(wrong)) in answer.json()["error"]["message"]
