"""The unmodified OpenAI SDK does what its users do every day, with models of every kind of provider.

`test_openai1_sdk` has the same tests run by the last 1.x.
"""

import base64
import json
from decimal import Decimal
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway

OPENAI, ANTHROPIC, SANDBOX = "alpha-chat", "claudius-chat", "sandbox-chat"
MODELS = [OPENAI, ANTHROPIC, SANDBOX]
PLAIN, CACHED, OUTPUT = 711, 300, 23
PIXEL = "data:image/png;base64,iVBORw0KGgo="
_SANDBOX_NAMES = {"input_tokens": "prompt_tokens"}


class Weather(pydantic.BaseModel):
    """The weather somewhere."""

    city: str
    unit: Literal["C", "F"]
    days: list[int]


ARGUMENTS = '{"city": "Zürich ☂ \\"old town\\"", "unit": "C", "days": [1, 2, 3]}'
CALL = {"name": "weather", "arguments": ARGUMENTS}
WEATHER = Weather(city='Zürich ☂ "old town"', unit="C", days=[1, 2, 3])
TOOL: Any = openai.pydantic_function_tool(Weather, name="weather")


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


@pytest.fixture(scope="module")
def client(account: Account) -> openai.OpenAI:
    """The official SDK, pointed at us."""
    return sdk(account, _strict_response_validation=True)


def sdk(account: Account, **options: Any) -> openai.OpenAI:
    """The SDK for this customer."""
    return openai.OpenAI(
        base_url=f"{account.gateway.base_url}/v1", api_key=account.key, **{"max_retries": 0, **options}
    )


def told(model: str, **script: Any) -> str:
    """A text that tells the model's provider how to answer, as long as the tokens that it claims to have read."""
    counts = {"input_tokens": PLAIN if model == ANTHROPIC else PLAIN + CACHED, "cached_tokens": CACHED}
    script = {**counts, "output_tokens": OUTPUT, **script}
    if model == SANDBOX:
        script = {_SANDBOX_NAMES.get(name, name): value for name, value in script.items()}
    mark = "#sandbox" if model == SANDBOX else "#script"
    return f"{'x' * (PLAIN + CACHED)} {mark} {json.dumps(script)}"


def said(model: str, **script: Any) -> list[Any]:
    """The same as a conversation."""
    return [{"role": "user", "content": told(model, **script)}]


def check_price(account: Account, request_id: str | None, usage: Any, model: str) -> None:
    """The answer's usage, the receipt and tokens × price all agree, to the nano-dollar."""
    assert request_id
    receipt = account.receipt(request_id)
    assert (usage.prompt_tokens, usage.completion_tokens) == (PLAIN + CACHED, OUTPUT)
    assert usage.total_tokens == PLAIN + CACHED + OUTPUT
    assert usage.prompt_tokens_details.cached_tokens == CACHED
    expected = price_usd(model, input=PLAIN, cached_input=CACHED, output=OUTPUT)
    assert Decimal(receipt["charge"]) == expected == Decimal(str(usage.cost))
    assert (receipt["operation"], receipt["evidence"], receipt["ended"]) == ("chat", "provider", "complete")


@pytest.mark.parametrize("model", MODELS)
def test_a_chat_at_the_exact_price(client: openai.OpenAI, account: Account, model: str) -> None:
    """Answered under the public model's name, the request's id where the SDK looks for it."""
    answer = client.chat.completions.create(model=model, messages=said(model))
    assert (answer.model, answer.object, len(answer.choices)) == (model, "chat.completion", 1)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    check_price(account, answer._request_id, answer.usage, model)


@pytest.mark.parametrize("model", MODELS)
def test_a_streamed_chat_at_the_exact_price(client: openai.OpenAI, account: Account, model: str) -> None:
    """Usage comes once, last, in a chunk without choices; every chunk has the answer's id and the public name."""
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=said(model), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(raw.parse())
    assert {(chunk.id, chunk.model, chunk.object) for chunk in chunks} == {
        (chunks[0].id, model, "chat.completion.chunk")
    }
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    check_price(account, raw.headers["x-request-id"], chunks[-1].usage, model)


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_has_usage_only_when_asked(client: openai.OpenAI, model: str) -> None:
    """Programs that index `choices[0]` of every chunk go on working."""
    chunks = list(client.chat.completions.create(model=model, messages=said(model), stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("model", MODELS)
async def test_the_asynchronous_client_streams(account: Account, model: str) -> None:
    """And may leave whenever it wants."""
    url = f"{account.gateway.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=account.key, max_retries=0) as client:
        answer = await client.chat.completions.create(model=model, messages=said(model))
        stream = await client.chat.completions.create(model=model, messages=said(model), stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == answer.choices[0].message.content
        left = await client.chat.completions.create(model=model, messages=said(model, gap_ms=100), stream=True)
        async for _ in left:
            break
        await left.close()


@pytest.mark.parametrize("model", MODELS)
def test_a_tool_is_called_and_its_result_read(client: openai.OpenAI, account: Account, model: str) -> None:
    """Two calls at once; what the SDK got goes back as it is, with the results."""
    first = said(model, calls=[CALL, CALL])
    answer = client.chat.completions.create(model=model, messages=first, tools=[TOOL], tool_choice="auto")
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    assert [call.type for call in message.tool_calls] == ["function", "function"]
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [json.loads(ARGUMENTS)] * 2
    assert len({call.id for call in message.tool_calls}) == 2
    check_price(account, answer._request_id, answer.usage, model)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    turn: list[Any] = [*first, message, *results, *said(model)]
    last = client.chat.completions.create(model=model, messages=turn, tools=[TOOL])
    assert last.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", MODELS)
def test_the_stream_helper_gathers_tool_arguments(client: openai.OpenAI, model: str) -> None:
    """Piece by piece, until the SDK itself can parse them as the caller's type."""
    with client.chat.completions.stream(
        model=model, messages=said(model, calls=[CALL, CALL]), tools=[TOOL], stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    for index in (0, 1):
        pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
        pieces = [event for event in pieces if event.index == index]
        assert len(pieces) > 1
        assert json.loads("".join(event.arguments_delta for event in pieces)) == json.loads(ARGUMENTS)
    calls = final.choices[0].message.tool_calls
    assert calls
    assert [call.function.parsed_arguments for call in calls] == [WEATHER, WEATHER]
    assert final.usage
    assert final.usage.completion_tokens == OUTPUT


@pytest.mark.parametrize("model", MODELS)
def test_a_parsed_answer(client: openai.OpenAI, model: str) -> None:
    """Structured output comes back as the caller's own type, whole and by the stream helper."""
    messages = said(model, text=ARGUMENTS, **({"output_tokens": None} if model == SANDBOX else {"chunks": 1}))
    answer = client.chat.completions.parse(model=model, messages=messages, response_format=Weather)
    assert answer.choices[0].message.parsed == WEATHER
    with client.chat.completions.stream(model=model, messages=messages, response_format=Weather) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == WEATHER


def echoed(client: openai.OpenAI, model: str, *names: str, **fields: Any) -> dict[str, Any]:
    """What of these fields the provider was asked."""
    messages = fields.pop("messages", [])
    answer = client.chat.completions.create(model=model, messages=[*messages, *said(model, echo=names)], **fields)
    seen: dict[str, Any] = json.loads(answer.choices[0].message.content or "")
    return seen


def test_every_field_reaches_an_openai_provider(client: openai.OpenAI) -> None:
    """Known to us or not, and as it was written."""
    fields: dict[str, Any] = {
        "stop": ["END", "\n\n"],
        "temperature": 0.3,
        "top_p": 0.9,
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"50256": -100},
        "user": "somebody",
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "metadata": {"a": "b"},
    }
    extra = {"a_field_of_tomorrow": {"deep": [1, None]}}
    seen = echoed(client, OPENAI, *fields, *extra, **fields, extra_body=extra)
    assert seen == fields | extra


def test_fields_that_anthropic_knows_reach_it(client: openai.OpenAI) -> None:
    """In its own words."""
    names = ("stop_sequences", "temperature", "metadata", "max_tokens", "tool_choice", "system")
    seen = echoed(
        client,
        ANTHROPIC,
        *names,
        messages=[{"role": "system", "content": "Be brief."}],
        stop="END",
        temperature=0.3,
        user="somebody",
        max_tokens=99,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    assert seen == {
        "stop_sequences": ["END"],
        "temperature": 0.3,
        "metadata": {"user_id": "somebody"},
        "max_tokens": 99,
        "tool_choice": {"type": "tool", "name": "weather"},
        "system": [{"type": "text", "text": "Be brief."}],
    }


@pytest.mark.parametrize("url", [PIXEL, "https://example.com/cat.png"])
def test_an_image_is_seen(client: openai.OpenAI, url: str) -> None:
    """By a link or inline, on either protocol; the sandbox answers, too."""
    part: Any = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    for model in MODELS:
        words = {"type": "text", "text": told(model, **({} if model == SANDBOX else {"echo": ["messages"]}))}
        message: Any = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, part, words]}
        answer = client.chat.completions.create(model=model, messages=[message])
        text = answer.choices[0].message.content or ""
        if model == SANDBOX:
            assert text
            continue
        (seen,) = json.loads(text)["messages"]
        if model == OPENAI:
            assert seen["content"][1] == part
        elif url == PIXEL:
            assert seen["content"][1]["source"] == {
                "type": "base64",
                "media_type": "image/png",
                "data": PIXEL.partition(",")[2],
            }
        else:
            assert seen["content"][1]["source"] == {"type": "url", "url": url}


@pytest.mark.parametrize("model", [OPENAI, SANDBOX])
def test_several_choices(client: openai.OpenAI, model: str) -> None:
    """Each by its index, whole and streamed."""
    answer = client.chat.completions.create(model=model, messages=said(model), n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(model=model, messages=said(model), n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_log_probabilities(client: openai.OpenAI) -> None:
    """Come through in both ways; a model that has none says so by the field."""
    asked: dict[str, Any] = {"model": OPENAI, "messages": said(OPENAI), "logprobs": True, "top_logprobs": 2}
    likely = client.chat.completions.create(**asked).choices[0].logprobs
    assert likely
    assert likely.content
    assert (likely.content[0].token, likely.content[0].logprob) == ("word1", -0.25)
    assert len(likely.content[0].top_logprobs) == 2
    chunks = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**asked, stream=True)]
    assert [token.token for each in chunks if each for token in each.content or ()] == [
        token.token for token in likely.content
    ]
    for field, value in (("n", 2), ("logprobs", True)):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{"model": ANTHROPIC, "messages": said(ANTHROPIC), field: value})
        assert refused.value.param == field


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    """By the SDK's own pages, with the fields that it parses."""
    models = list(client.models.list())
    assert {*MODELS, "sandbox-embedding", "whisper-1", "sandbox-image"} <= {model.id for model in models}
    for model in models:
        assert (model.object, type(model.created), type(model.owned_by)) == ("model", int, str)
    assert client.models.retrieve(ANTHROPIC).id == ANTHROPIC
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_images_at_the_exact_price(client: openai.OpenAI, account: Account) -> None:
    """As links or as bytes."""
    raw = client.images.with_raw_response.generate(model="sandbox-image", prompt="a bridge", n=2)
    answer = raw.parse()
    assert answer.data
    assert [bool(image.url) for image in answer.data] == [True, True]
    inline = client.images.generate(model="sandbox-image", prompt="a bridge", response_format="b64_json")
    assert inline.data
    assert base64.b64decode(inline.data[0].b64_json or "").startswith(b"\x89PNG")
    assert Decimal(account.receipt(raw.headers["x-request-id"])["charge"]) == Decimal("0.04")
