"""The unmodified langchain-openai does what its users do every day, with models of every kind of provider."""

import json
from decimal import Decimal
from typing import Any

import openai
import pydantic
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway
from tests.integration.test_openai_sdk import CACHED, MODELS, OPENAI, OUTPUT, PLAIN, SANDBOX, told

ARGUMENTS = {"city": 'Zürich ☂ "old town"', "days": [1, 2, 3]}
CALL = {"name": "weather", "arguments": json.dumps(ARGUMENTS, ensure_ascii=False)}
METHODS = ["json_schema", "function_calling", "json_mode"]


class Weather(pydantic.BaseModel):
    """The weather somewhere."""

    city: str
    days: list[int]


@tool
def weather(city: str, days: list[int]) -> str:
    """The weather somewhere."""
    return f"sunny in {city} for {len(days)} days"


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


def chat(account: Account, model: str, **options: Any) -> ChatOpenAI:
    """The chat model."""
    settings: dict[str, Any] = {"max_retries": 0, "stream_usage": True, "include_response_headers": True, **options}
    return ChatOpenAI(model=model, base_url=f"{account.gateway.base_url}/v1", api_key=account.key, **settings)


def check_price(account: Account, answer: Any, model: str) -> None:
    """Its own count of tokens, the receipt and tokens × price all agree."""
    usage = answer.usage_metadata
    assert (usage["input_tokens"], usage["output_tokens"]) == (PLAIN + CACHED, OUTPUT)
    assert usage["input_token_details"]["cache_read"] == CACHED
    receipt = account.receipt(answer.response_metadata["headers"]["x-request-id"])
    assert Decimal(receipt["charge"]) == price_usd(model, input=PLAIN, cached_input=CACHED, output=OUTPUT)


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_invoked_and_streamed_at_the_exact_price(account: Account, model: str, responses: bool) -> None:
    """By chat completions and by responses, one by one, in batches, and asynchronously."""
    llm = chat(account, model, use_responses_api=responses)
    answer = llm.invoke([("system", "Be brief."), ("user", told(model))])
    assert answer.text
    assert answer.response_metadata["model_name"] == model
    check_price(account, answer, model)
    whole = AIMessageChunk(content="")
    for chunk in llm.stream(told(model)):
        whole = whole + chunk
    assert whole.text == answer.text
    check_price(account, whole, model)
    assert [each.text for each in llm.batch([told(model)] * 3)] == [answer.text] * 3
    assert (await llm.ainvoke(told(model))).text == answer.text
    assert "".join([chunk.text async for chunk in llm.astream(told(model))]) == answer.text


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_an_agents_loop(account: Account, model: str, responses: bool) -> None:
    """The tool is called, whole or streamed, and the model goes on with its results."""
    llm = chat(account, model, use_responses_api=responses).bind_tools([weather])
    question = HumanMessage(told(model, calls=[CALL, CALL]))
    streamed = AIMessageChunk(content="")
    for chunk in llm.stream([question]):
        streamed = streamed + chunk
    for answer in (llm.invoke([question]), streamed):
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("weather", ARGUMENTS)] * 2
        results = [weather.invoke(call) for call in answer.tool_calls]
        assert all(isinstance(result, ToolMessage) for result in results)
        assert llm.invoke([question, answer, *results]).text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_structured_output(account: Account, model: str, method: Any) -> None:
    """By each of its ways, as the caller's own type."""
    text = json.dumps(ARGUMENTS)
    script: dict[str, Any] = {"calls": [{"name": "Weather", "arguments": text}]}
    if method != "function_calling":
        script = {"text": text} | ({"output_tokens": None} if model == SANDBOX else {"chunks": 1})
    llm = chat(account, model).with_structured_output(Weather, method=method)
    assert llm.invoke(told(model, **script)) == Weather(**ARGUMENTS)


def test_an_image_is_seen(account: Account) -> None:
    """In langchain's own words for it."""
    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    for model in MODELS:
        message = HumanMessage([{"type": "text", "text": told(model)}, image])
        assert chat(account, model).invoke([message]).text


def test_embeddings(account: Account) -> None:
    """Many texts and one; without the count of tokens for which it would fetch tables from elsewhere."""
    made = OpenAIEmbeddings(
        model="sandbox-embedding",
        base_url=f"{account.gateway.base_url}/v1",
        api_key=account.key,
        check_embedding_ctx_length=False,
    )
    one, two = made.embed_documents(["one two", "three"])
    assert len(one) == len(two) > 1
    assert made.embed_query("three") == pytest.approx(two)


def test_errors_are_openais(account: Account) -> None:
    """As its users catch them."""
    with pytest.raises(openai.NotFoundError):
        chat(account, "nope").invoke("hi")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat(account, OPENAI, temperature=3).invoke("hi")
    with pytest.raises(openai.APIError):
        list(chat(account, OPENAI).stream(told(OPENAI, fail_after_chunks=2)))
