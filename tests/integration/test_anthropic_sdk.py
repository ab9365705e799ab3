"""The unmodified Anthropic SDK works against both provider protocols, at an exact price."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway

MODELS = ["alpha-chat", "claudius-chat"]
TOOL: ToolParam = {
    "name": "weather",
    "description": "The weather somewhere.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS = [
    {"name": "weather", "arguments": '{"city": "Zürich"}'},
    {"name": "weather", "arguments": '{"city": "São Paulo"}'},
]
PLAIN, CACHED, OUTPUT = 711, 300, 23


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


@pytest.fixture(scope="module", params=["x-api-key", "bearer"])
def client(account: Account, request: pytest.FixtureRequest) -> Iterator[anthropic.Anthropic]:
    """The official SDK, pointed at the root, with the key in either header."""
    with sdk(account, bearer=request.param == "bearer") as made:
        yield made


def sdk(account: Account, *, bearer: bool = False) -> anthropic.Anthropic:
    """The SDK for this customer."""
    key: dict[str, Any] = {"auth_token": account.key, "api_key": None} if bearer else {"api_key": account.key}
    return anthropic.Anthropic(base_url=account.gateway.base_url, max_retries=0, **key)


def said(model: str, text: str = "", **script: Any) -> list[MessageParam]:
    """A conversation that tells the provider how to answer, with as much text as it claims to have read."""
    counts = {"input_tokens": PLAIN if model == "claudius-chat" else PLAIN + CACHED, "cached_tokens": CACHED}
    told = json.dumps({**counts, "output_tokens": OUTPUT, **script})
    return [{"role": "user", "content": f"{text}{'x' * (PLAIN + CACHED)} #script {told}"}]


def check_price(account: Account, request_id: str | None, usage: Any, model: str) -> None:
    """The answer's usage, the receipt and tokens × price all agree, to the nano-dollar."""
    assert request_id
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (PLAIN, CACHED, OUTPUT)
    expected = price_usd(model, input=PLAIN, cached_input=CACHED, output=OUTPUT)
    receipt = account.receipt(request_id)
    assert Decimal(receipt["charge"]) == expected
    assert Decimal(str(usage.cost)) == expected
    assert (receipt["operation"], receipt["evidence"], receipt["ended"]) == ("messages", "provider", "complete")
    assert receipt["usage"]["cached_tokens"] == CACHED


@pytest.mark.parametrize("model", MODELS)
def test_a_message_is_answered_at_the_exact_price(client: anthropic.Anthropic, account: Account, model: str) -> None:
    """Under the public model's name, cached tokens at their own price."""
    message = client.messages.create(model=model, max_tokens=100, system="Be brief.", messages=said(model))
    assert (message.model, message.role, message.stop_reason) == (model, "assistant", "end_turn")
    assert [block.type for block in message.content] == ["text"]
    check_price(account, message._request_id, message.usage, model)


@pytest.mark.parametrize("model", MODELS)
def test_a_message_is_streamed_at_the_exact_price(client: anthropic.Anthropic, account: Account, model: str) -> None:
    """Text and thoughts come as they are made; the last usage names the charge which the ledger then has."""
    with client.messages.stream(model=model, max_tokens=100, messages=said(model, thinking="hm")) as stream:
        events = list(stream)
        message, request_id = stream.get_final_message(), stream.request_id
    assert "".join(event.text for event in events if event.type == "text") == "word1 word2 word3 word4 word5 "
    assert [block.type for block in message.content] == ["thinking", "text"]
    (usage,) = [event.usage for event in events if event.type == "message_delta"]
    assert (message.model, message.stop_reason) == (model, "end_turn")
    check_price(account, request_id, usage, model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("streams", [True, False])
def test_tools_are_called_and_their_results_read(account: Account, model: str, streams: bool) -> None:
    """Two calls at once, their arguments whole; the conversation goes on with their results."""
    with sdk(account) as client:
        first = said(model, calls=CALLS)
        if streams:
            with client.messages.stream(model=model, max_tokens=100, messages=first, tools=[TOOL]) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(model=model, max_tokens=100, messages=first, tools=[TOOL])
        uses = [block for block in message.content if block.type == "tool_use"]
        assert message.stop_reason == "tool_use"
        assert [(use.name, use.input) for use in uses] == [("weather", json.loads(call["arguments"])) for call in CALLS]
        results: list[Any] = [{"type": "tool_result", "tool_use_id": use.id, "content": "sun"} for use in uses]
        history: list[MessageParam] = [*first, message.to_param(), {"role": "user", "content": results}]
        history[-1] = {"role": "user", "content": [*results, {"type": "text", "text": "#script {}"}]}
        more = client.messages.create(model=model, max_tokens=100, messages=history, tools=[TOOL])
    assert more.stop_reason == "end_turn"


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_counted_for_nothing(system: Gateway, model: str) -> None:
    """The provider's count where it has one, ours elsewhere; a customer without money may ask."""
    with sdk(system.customer(credit_usd="0")) as client:
        counted = client.messages.count_tokens(model=model, messages=said(model), system="Be brief.", tools=[TOOL])
    assert counted.input_tokens == PLAIN if model == "claudius-chat" else counted.input_tokens > 100


def test_errors_are_the_sdks_own(account: Account) -> None:
    """Each kind of refusal raises what the SDK has for it, with the field and the request's id."""
    plain = said("alpha-chat")
    with sdk(account) as client:
        with pytest.raises(anthropic.NotFoundError) as unknown:
            client.messages.create(model="nope", max_tokens=5, messages=plain)
        with pytest.raises(anthropic.BadRequestError, match="temperature") as wrong:
            client.messages.create(model="alpha-chat", max_tokens=5, messages=plain, extra_body={"temperature": 2})
        with pytest.raises(anthropic.APIStatusError) as broken:
            client.messages.create(model="claudius-chat", max_tokens=5, messages=said("claudius-chat", status=500))
    with (
        sdk(Account(account.gateway, "", "tb_live_wrong", "")) as client,
        pytest.raises(anthropic.AuthenticationError) as stranger,
    ):
        client.messages.create(model="alpha-chat", max_tokens=5, messages=plain)
    errors = (unknown.value, wrong.value, broken.value, stranger.value)
    kinds = ["not_found_error", "invalid_request_error", "api_error", "authentication_error"]
    assert [error.type for error in errors] == kinds
    assert all(error.request_id for error in errors)


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_that_breaks_raises_and_costs_nothing(account: Account, model: str) -> None:
    """The SDK sees the error event."""
    told = said(model, fail_after_chunks=2)
    with sdk(account) as client, client.messages.stream(model=model, max_tokens=100, messages=told) as stream:
        with pytest.raises(anthropic.APIStatusError):
            stream.until_done()
        assert stream.request_id
        receipt = account.receipt(stream.request_id)
    assert (Decimal(receipt["charge"]), receipt["ended"]) == (0, "upstream_failed")


@pytest.mark.parametrize("model", MODELS)
def test_the_same_key_is_answered_once(system: Gateway, model: str) -> None:
    """Two sends, one execution, one charge, the same answer."""
    account, key = system.customer(credit_usd="5"), {"Idempotency-Key": "once"}
    told = {"model": model, "max_tokens": 100, "messages": said(model), "extra_headers": key}
    with sdk(account) as client:
        one, two = (client.messages.create(**told) for _ in range(2))
    assert one.to_dict() == two.to_dict()
    assert one._request_id == two._request_id
    check_price(account, one._request_id, one.usage, model)
    assert Decimal(5) - account.credits()["balance"] == Decimal(str(one.usage.cost))


@pytest.mark.parametrize("model", MODELS)
def test_who_leaves_pays_what_the_provider_reports(account: Account, model: str) -> None:
    """The stream is read on to its usage, and that is charged to the nano-dollar."""
    body = {"model": model, "max_tokens": 100, "stream": True, "messages": said(model, gap_ms=150)}
    url = f"{account.gateway.base_url}/v1/messages"
    with httpx.stream("POST", url, json=body, headers=account.headers, timeout=20) as reply:
        next(reply.iter_bytes())
        request_id = reply.headers["request-id"]
    receipt = account.receipt(request_id)
    assert receipt["ended"] == "client_gone"
    assert Decimal(receipt["charge"]) == price_usd(model, input=PLAIN, cached_input=CACHED, output=OUTPUT)


def test_cache_writes_have_their_price(account: Account) -> None:
    """What Anthropic writes to its cache is charged by the write's price."""
    told = said("claudius-chat", cache_write_tokens=100)
    with sdk(account) as client:
        message = client.messages.create(model="claudius-chat", max_tokens=100, messages=told)
    assert message._request_id
    assert message.usage.cache_creation_input_tokens == 100
    expected = price_usd("claudius-chat", input=PLAIN, cached_input=CACHED, cache_write=100, output=OUTPUT)
    assert Decimal(account.receipt(message._request_id)["charge"]) == expected
