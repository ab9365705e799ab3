"""The unmodified OpenAI SDK speaks the Responses API with models of both provider protocols, at an exact price."""

import json
from decimal import Decimal
from typing import Any

import openai
import pydantic
import pytest

from tests.integration.offer import price_usd
from tests.integration.running import Account, Gateway

MODELS = ["alpha-chat", "claudius-chat"]
SCRIPT: dict[str, Any] = {"input_tokens": 1011, "cached_tokens": 300, "output_tokens": 23}
LOOK = {"name": "look", "arguments": '{"place": "Zürich", "days": 3}'}


class Look(pydantic.BaseModel):
    """Looks up the weather."""

    place: str
    days: int


@pytest.fixture(scope="module")
def account(system: Gateway) -> Account:
    """A customer with 5 USD."""
    return system.customer(credit_usd="5")


@pytest.fixture(scope="module")
def client(account: Account) -> openai.OpenAI:
    """The official SDK, pointed at us."""
    return openai.OpenAI(base_url=f"{account.gateway.base_url}/v1", api_key=account.key, max_retries=0)


def scripted(**script: Any) -> str:
    """An input that tells the provider how to answer, as long as the tokens that it claims."""
    told = SCRIPT | script
    filler = "x" * (told["input_tokens"] + told["cached_tokens"])
    return f"{filler} #script {json.dumps(told)}"


def check_price(account: Account, request_id: str, usage: Any, model: str) -> None:
    """The answer's usage, the receipt and tokens × price all agree."""
    receipt = account.receipt(request_id)
    tokens = receipt["usage"]
    assert receipt["operation"] == "responses"
    assert (receipt["evidence"], receipt["ended"]) == ("provider", "complete")
    assert tokens["prompt_tokens"] == usage.input_tokens
    assert tokens["cached_tokens"] == usage.input_tokens_details.cached_tokens == SCRIPT["cached_tokens"]
    assert tokens["completion_tokens"] == usage.output_tokens == SCRIPT["output_tokens"]
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    expected = price_usd(
        model,
        input=usage.input_tokens - SCRIPT["cached_tokens"],
        cached_input=SCRIPT["cached_tokens"],
        output=SCRIPT["output_tokens"],
    )
    assert Decimal(receipt["charge"]) == expected == Decimal(str(usage.cost))


@pytest.mark.parametrize("model", MODELS)
def test_a_response_at_the_exact_price(client: openai.OpenAI, account: Account, model: str) -> None:
    """Created whole: text, ids, the public model's name, nothing stored."""
    raw = client.responses.with_raw_response.create(
        model=model, input=scripted(thinking="Hm."), instructions="Be brief."
    )
    answer = raw.parse()
    assert (answer.status, answer.model, answer.to_dict()["store"]) == ("completed", model, False)
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output_text == "word1 word2 word3 word4 word5 "
    check_price(account, raw.headers["x-request-id"], answer.usage, model)


@pytest.mark.parametrize("model", MODELS)
def test_a_streamed_response_at_the_exact_price(client: openai.OpenAI, account: Account, model: str) -> None:
    """Every event parses as the type that it names, and their pieces are the whole."""
    raw = client.responses.with_raw_response.create(
        model=model, input=scripted(thinking="Hm."), stream=True, reasoning={"summary": "auto"}
    )
    events = list(raw.parse())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    end = events[-1]
    assert end.type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == end.response.output_text == "word1 word2 word3 word4 word5 "
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_summary_text.delta")
    assert thought == "Hm."
    check_price(account, raw.headers["x-request-id"], end.response.usage, model)


@pytest.mark.parametrize("model", MODELS)
def test_an_agents_turn_with_tools(client: openai.OpenAI, model: str) -> None:
    """The SDK's own stream helper parses the call's arguments; what it got goes back as the next turn's input."""
    tools: list[Any] = [openai.pydantic_function_tool(Look, name="look")["function"]]
    tools = [{"type": "function", **tools[0]}]
    question: Any = {"role": "user", "content": scripted(calls=[LOOK, LOOK], thinking="Hm.")}
    with client.responses.stream(model=model, input=[question], tools=tools, store=False) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == LOOK["arguments"] * 2
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["look", "look"]
    assert [call.parsed_arguments for call in calls] == [json.loads(LOOK["arguments"])] * 2
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls
    ]
    again: Any = {"role": "user", "content": scripted(finish="length")}
    turn: list[Any] = [question, *(item.to_dict() for item in answer.output), *outputs, again]
    last = client.responses.create(model=model, input=turn, tools=tools)
    assert (last.status, last.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize("model", MODELS)
def test_a_parsed_response(client: openai.OpenAI, model: str) -> None:
    """Structured output comes back as the caller's own type."""
    answer = client.responses.parse(model=model, input=scripted(text=LOOK["arguments"], chunks=1), text_format=Look)
    assert answer.output_parsed == Look(place="Zürich", days=3)


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_that_fails_raises_and_is_free(client: openai.OpenAI, account: Account, model: str) -> None:
    """Nobody takes half an answer for a whole one."""
    raw = client.responses.with_raw_response.create(model=model, input=scripted(fail_after_chunks=2), stream=True)
    seen: list[Any] = []
    with pytest.raises(openai.APIError):
        seen.extend(event for event in raw.parse())
    receipt = account.receipt(raw.headers["x-request-id"])
    assert (Decimal(receipt["charge"]), receipt["ended"]) == (0, "upstream_failed")


def test_what_needs_a_memory_is_refused_by_its_name(client: openai.OpenAI) -> None:
    """The SDK raises BadRequestError, which says the field."""
    for field, value in (("previous_response_id", "resp_1"), ("background", True), ("conversation", "conv_1")):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.responses.create(model="alpha-chat", input="Hi", extra_body={field: value})
        assert refusal.value.param == field
    tools: list[Any] = [{"type": "code_interpreter", "container": {"type": "auto"}}]
    with pytest.raises(openai.BadRequestError, match="code_interpreter") as refusal:
        client.responses.create(model="alpha-chat", input="Hi", tools=tools)
    assert refusal.value.param == "tools[0].type"


def test_legacy_completions(client: openai.OpenAI, account: Account) -> None:
    """The SDK completes and streams as of old, at the exact price."""
    raw = client.completions.with_raw_response.create(model="alpha-chat", prompt=scripted(), max_tokens=30)
    answer = raw.parse()
    assert (answer.model, answer.object) == ("alpha-chat", "text_completion")
    assert answer.choices[0].text.startswith("word1")
    expected = price_usd("alpha-chat", input=711, cached_input=300, output=23)
    assert Decimal(account.receipt(raw.headers["x-request-id"])["charge"]) == expected
    stream = client.completions.create(
        model="alpha-chat", prompt=scripted(), max_tokens=30, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text
    assert Decimal(str(chunks[-1].usage.cost)) == expected
