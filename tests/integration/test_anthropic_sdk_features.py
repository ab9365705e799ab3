"""What else users of the Anthropic SDK do, with models of every kind of provider; it validates our answers strictly."""

import json
from decimal import Decimal
from typing import Any

import anthropic
import pydantic
import pytest

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway
from tests.integration.test_openai_sdk import ANTHROPIC, CACHED, CALL, MODELS, OPENAI, OUTPUT, PLAIN, SANDBOX, told

TOOL: Any = {
    "name": "weather",
    "description": "The weather somewhere.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
MARK = {"type": "ephemeral"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


class Weather(pydantic.BaseModel):
    """The weather somewhere."""

    city: str
    days: list[int]


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


@pytest.fixture(scope="module")
def client(account: Account) -> anthropic.Anthropic:
    """The official SDK, pointed at the root."""
    return anthropic.Anthropic(
        base_url=account.gateway.base_url, api_key=account.key, max_retries=0, _strict_response_validation=True
    )


def said(model: str, **script: Any) -> list[Any]:
    """A conversation that tells the provider how to answer."""
    return [{"role": "user", "content": told(model, **script)}]


def check_price(account: Account, message: Any, request_id: str, model: str) -> None:
    """The answer's usage, the receipt and tokens × price all agree, to the nano-dollar."""
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (PLAIN, CACHED, OUTPUT)
    expected = price_usd(model, input=PLAIN, cached_input=CACHED, output=OUTPUT)
    assert Decimal(account.receipt(request_id)["charge"]) == expected


@pytest.mark.parametrize("model", MODELS)
def test_valid_in_every_field(client: anthropic.Anthropic, account: Account, model: str) -> None:
    """Whole and streamed, raw events and the helper's."""
    message = client.messages.create(model=model, max_tokens=100, messages=said(model), stop_sequences=["END"])
    check_price(account, message, message._request_id or "", model)
    with client.messages.stream(model=model, max_tokens=100, messages=said(model)) as stream:
        assert "".join(stream.text_stream) == message.content[0].text
        check_price(account, stream.get_final_message(), stream.request_id or "", model)
    raw = client.messages.with_raw_response.create(model=model, max_tokens=100, messages=said(model), stream=True)
    kinds = [event.type for event in raw.parse()]
    assert kinds[0] == "message_start"
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert raw.headers["request-id"]


@pytest.mark.parametrize("model", MODELS)
async def test_the_asynchronous_client(account: Account, model: str) -> None:
    """Answers and streams, and may leave whenever it wants."""
    root = account.gateway.base_url
    async with anthropic.AsyncAnthropic(base_url=root, api_key=account.key, max_retries=0) as client:
        message = await client.messages.create(model=model, max_tokens=100, messages=said(model))
        async with client.messages.stream(model=model, max_tokens=100, messages=said(model)) as stream:
            assert await stream.get_final_text() == message.content[0].text
        told_slowly = said(model, gap_ms=100)
        async with client.messages.stream(model=model, max_tokens=100, messages=told_slowly) as stream:
            async for _ in stream.text_stream:
                break


@pytest.mark.parametrize("model", MODELS)
def test_tools_forced_or_not(client: anthropic.Anthropic, model: str) -> None:
    """The helper gathers the input piece by piece; the results go back, an image among them."""
    first = said(model, calls=[CALL])
    asked: dict[str, Any] = {"model": model, "max_tokens": 100, "tools": [TOOL]}
    choice: Any = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    with client.messages.stream(messages=first, tool_choice=choice, **asked) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert use.input == json.loads("".join(pieces)) == json.loads(CALL["arguments"])
    content: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sun"}, IMAGE]}]
    turn: list[Any] = [*first, {"role": "assistant", "content": message.content}, {"role": "user", "content": content}]
    assert client.messages.create(messages=turn, **asked).stop_reason == "end_turn"


@pytest.mark.parametrize("model", MODELS)
def test_a_parsed_message(client: anthropic.Anthropic, model: str) -> None:
    """Structured output comes back as the caller's own type."""
    text = {"text": CALL["arguments"]} | ({"output_tokens": None} if model == SANDBOX else {"chunks": 1})
    message = client.messages.parse(model=model, max_tokens=100, messages=said(model, **text), output_format=Weather)
    assert message.parsed_output == Weather(**{"unit": "C", **json.loads(CALL["arguments"])})


def test_anthropic_gets_everything_as_it_was_written(client: anthropic.Anthropic) -> None:
    """Cache marks, thinking, citations, and what we have never heard of."""
    document = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "Some text."},
        "citations": {"enabled": True},
        "cache_control": MARK,
    }
    echo = ["system", "messages", "tools", "thinking", "metadata", "stop_sequences", "top_k", "a_field_of_tomorrow"]
    words = {"type": "text", "text": told(ANTHROPIC, echo=echo), "cache_control": MARK}
    fields: dict[str, Any] = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": MARK}],
        "messages": [{"role": "user", "content": [document, IMAGE, words]}],
        "tools": [{**TOOL, "cache_control": MARK}],
        "thinking": {"type": "enabled", "budget_tokens": 1500},
        "metadata": {"user_id": "somebody"},
        "stop_sequences": ["END"],
    }
    extra = {"top_k": 5, "a_field_of_tomorrow": {"deep": [1, None]}}
    message = client.messages.create(model=ANTHROPIC, max_tokens=3000, extra_body=extra, **fields)
    (block,) = message.content
    assert block.type == "text"
    assert json.loads(block.text) == fields | extra


def test_an_openai_provider_gets_what_it_can_understand(client: anthropic.Anthropic) -> None:
    """Cache marks are left out, an effort stands for the budget."""
    echo = ["messages", "tools", "reasoning_effort", "user", "stop"]
    words = {"type": "text", "text": told(OPENAI, echo=echo), "cache_control": MARK}
    message = client.messages.create(
        model=OPENAI,
        max_tokens=3000,
        system=[{"type": "text", "text": "Be brief.", "cache_control": MARK}],
        messages=[{"role": "user", "content": [IMAGE, words]}],
        tools=[{**TOOL, "cache_control": MARK}],
        thinking={"type": "enabled", "budget_tokens": 1500},
        metadata={"user_id": "somebody"},
        stop_sequences=["END"],
    )
    (block,) = message.content
    assert block.type == "text"
    seen = json.loads(block.text)
    assert [each["role"] for each in seen["messages"]] == ["system", "user"]
    link = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    assert seen["messages"][1]["content"][0] == link
    function = {"name": "weather", "description": TOOL["description"], "parameters": TOOL["input_schema"]}
    assert seen["tools"] == [{"type": "function", "function": function}]
    assert (seen["reasoning_effort"], seen["user"], seen["stop"]) == ("low", "somebody", ["END"])


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_counted(client: anthropic.Anthropic, model: str) -> None:
    """Before anything is paid."""
    assert client.messages.count_tokens(model=model, messages=said(model), tools=[TOOL]).input_tokens > 100


def test_models_are_listed_and_found(client: anthropic.Anthropic) -> None:
    """In Anthropic's own shape and pages."""
    models = {model.id: model for model in client.models.list()}
    assert set(MODELS) <= set(models)
    assert models[OPENAI].max_input_tokens == 128000
    found = client.models.retrieve(ANTHROPIC)
    assert (found.id, found.type, found.display_name, found.max_tokens) == (ANTHROPIC, "model", ANTHROPIC, 4096)
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nope")


def test_refusals_are_the_sdks_own_exceptions(account: Account) -> None:
    """Also who has no money, and whose key is for another model."""
    key = account.gateway.admin("POST", "/admin/keys", customer_id=account.customer_id, name="t", models=[OPENAI])
    poor = account.gateway.customer(credit_usd="0.000001")
    hi: list[Any] = [{"role": "user", "content": "hi"}]
    for secret, model, status, kind in (
        (key["key"], ANTHROPIC, 403, "permission_error"),
        (poor.key, OPENAI, 402, "billing_error"),
    ):
        client = anthropic.Anthropic(base_url=account.gateway.base_url, api_key=secret, max_retries=2)
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(model=model, max_tokens=4000, messages=hi)
        assert (caught.value.status_code, caught.value.type) == (status, kind)
        assert caught.value.request_id


@pytest.mark.parametrize(("model", "stream"), [(OPENAI, False), (ANTHROPIC, True)])
def test_the_tool_runner_runs_tools(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    """It asks to have the conversation held, is told that it is not, and sends the whole of it from then on."""
    asked: list[str] = []

    @anthropic.beta_tool
    def weather(city: str, unit: str, days: list[int]) -> str:
        """The weather somewhere."""
        asked.append(f"{city} {unit} {days}")
        return "Rain."

    runner = client.beta.messages.tool_runner(
        model=model, max_tokens=100, tools=[weather], messages=said(model, calls=[CALL]), stream=stream
    )
    last = runner.until_done()
    assert asked == ["{city} {unit} {days}".format(**json.loads(CALL["arguments"]))]
    assert last.stop_reason == "end_turn"
