"""The built-in provider: deterministic, scripted, and indistinguishable from a real one to what is above it."""

import dataclasses
import json
import re

import pytest
from openai.types.chat import ChatCompletionChunk

from pricing.tokens import Tokens
from upstream.client import HttpCall, Timeouts
from upstream.openai.chat_stream import ChatStream
from upstream.outcome import AttemptFailed, Outcome, TotalTimeReached
from upstream.sandbox.provider import Sandbox
from upstream.usage import UsageLimits

QUICK = Timeouts(connect_s=1, first_byte_s=1, idle_s=1, total_s=5)


def chat(text: str, **fields: object) -> HttpCall:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    return call("/chat/completions", body)


def call(path: str, body: object) -> HttpCall:
    return HttpCall(method="POST", url=f"sandbox:{path}", headers={}, body=json.dumps(body).encode())


async def events(http_call: HttpCall, timeouts: Timeouts = QUICK) -> list[bytes]:
    response = await Sandbox().send(http_call, timeouts=timeouts)
    return [chunk async for chunk in response.chunks()]


async def test_says_that_it_is_a_sandbox() -> None:
    """An answer without a script names its maker."""
    response = await Sandbox().send(chat("hello you"), timeouts=QUICK)
    answer = json.loads(await response.read(100_000))
    assert "sandbox" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["total_tokens"] == 2 + answer["usage"]["completion_tokens"]


async def test_names_its_answers_as_the_provider_does_for_whom_it_stands_in() -> None:
    """OpenRouter's ids tell their time; all others are named as OpenAI names them."""
    body = chat("hello").body
    for url, shape in (
        ("https://openrouter.ai/api/v1/chat/completions", r"gen-17-\w{20}"),
        ("sandbox:/chat/completions", r"chatcmpl-\w{24}"),
        ("sandbox:/completions", r"cmpl-\w{24}"),
    ):
        asked = HttpCall(method="POST", url=url, headers={}, body=body)
        response = await Sandbox(clock=lambda: 17.5).send(asked, timeouts=QUICK)
        answer = json.loads(await response.read(100_000))
        assert re.fullmatch(shape, answer["id"])
        assert answer["created"] == 17


async def test_streams_as_scripted() -> None:
    """Chunks and output tokens come as the directive says, with a usage block when asked for."""
    script = '#sandbox {"chunks": 3, "output_tokens": 7, "prompt_tokens": 11, "cached_tokens": 4}'
    stream = await events(chat(script, stream=True, stream_options={"include_usage": True}))
    assert stream[-1] == b"data: [DONE]\n\n"
    parsed = [json.loads(event[6:]) for event in stream[:-1]]
    content = [chunk["choices"][0]["delta"].get("content") for chunk in parsed if chunk["choices"]]
    assert len([piece for piece in content if piece]) == 3
    assert len("".join(piece for piece in content if piece).split()) == 7
    assert parsed[-1]["usage"]["completion_tokens"] == 7
    assert parsed[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_stops_at_the_token_limit() -> None:
    """Never more tokens than the request allows, and the finish reason says so."""
    response = await Sandbox().send(chat('#sandbox {"output_tokens": 50}', max_tokens=5), timeouts=QUICK)
    answer = json.loads(await response.read(100_000))
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_stops_before_a_stop_sequence(stream: bool) -> None:
    """The first in the text, which may begin within a word; the tokens before it are counted."""
    script = '#sandbox {"text": "one two three four"}'
    assert await answer_of(chat(script, stop=["four", "o th"]), stream=stream) == ("one tw", [], "stop", 2)
    assert await answer_of(chat(script, stop="one"), stream=stream) == ("", [], "stop", 0)
    assert await answer_of(chat(script, stop="five"), stream=stream) == ("one two three four", [], "stop", 4)
    assert (await answer_of(chat(script, stop="four", max_tokens=2), stream=stream))[2] == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_tools_as_scripted_until_their_results_come(stream: bool) -> None:
    """Arguments in pieces when streamed; their words are tokens, within the limit."""
    script = '#sandbox {"calls": [{"name": "look", "arguments": "{\\"at\\": 1}"}]}'
    answered = await answer_of(chat(script), stream=stream)
    assert answered == ("", [("look", '{"at": 1}')], "tool_calls", 3)
    assert (await answer_of(chat(script, max_tokens=2), stream=stream))[3] == 2
    told = {"role": "user", "content": script}
    done = {"role": "tool", "tool_call_id": "x", "content": "sun"}
    answered = await answer_of(call("/chat/completions", {"model": "m", "messages": [told, done]}), stream=stream)
    assert answered[1:3] == ([], "stop")


TOOLS = [
    {"type": "function", "function": {"name": "first"}},
    {
        "type": "function",
        "function": {"name": "other", "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}}},
    },
]


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", [("first", "{}")]),
        ({"type": "function", "function": {"name": "other"}}, [("other", '{"at":0}')]),
        ({"type": "function", "function": {"name": "nobody"}}, []),
        ("auto", []),
    ],
)
async def test_calls_what_it_is_forced_to_call(choice: object, called: list[object]) -> None:
    """With arguments that fit the schema."""
    answered = await answer_of(chat("hello", tools=TOOLS, tool_choice=choice))
    assert answered[1] == called


async def test_answers_in_the_format_that_is_asked_for() -> None:
    """JSON that fits, unless the script says what to say."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert (await answer_of(chat("hello", response_format=asked)))[0] == '{"city":"sandbox"}'
    assert (await answer_of(chat("hello", response_format={"type": "json_object"})))[0] == "{}"
    assert (await answer_of(chat('#sandbox {"text": "no"}', response_format=asked)))[0] == "no"


async def answer_of(asked: HttpCall, *, stream: bool = False) -> tuple[str, list[tuple[str, str]], str, int]:
    """Text, calls, finish and output tokens of an answer, put together from its pieces when streamed."""
    if not stream:
        response = await Sandbox().send(asked, timeouts=QUICK)
        whole = json.loads(await response.read(100_000))
        message, finish = whole["choices"][0]["message"], whole["choices"][0]["finish_reason"]
        called = [(each["function"]["name"], each["function"]["arguments"]) for each in message.get("tool_calls", [])]
        return message["content"] or "", called, finish, whole["usage"]["completion_tokens"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = dataclasses.replace(asked, body=json.dumps(json.loads(asked.body) | options).encode())
    text, calls, finish = "", {}, ""
    *chunks, last = [json.loads(event[6:]) for event in (await events(streamed))[:-1]]
    for choice in (chunk["choices"][0] for chunk in chunks):
        text += choice["delta"].get("content") or ""
        finish = choice["finish_reason"] or finish
        for piece in choice["delta"].get("tool_calls", []):
            name, arguments = calls.get(piece["index"], ("", ""))
            function = piece["function"]
            calls[piece["index"]] = (name + function.get("name", ""), arguments + function["arguments"])
    return text, list(calls.values()), finish, last["usage"]["completion_tokens"]


async def test_breaks_off_when_told_to() -> None:
    """`fail_after_chunks` ends the stream as a broken connection does."""
    response = await Sandbox().send(chat('#sandbox {"fail_after_chunks": 2}', stream=True), timeouts=QUICK)
    got: list[bytes] = []
    with pytest.raises(AttemptFailed) as failed:
        got.extend([chunk async for chunk in response.chunks()])
    assert failed.value.outcome is Outcome.UNREACHABLE


async def test_refuses_with_the_scripted_status() -> None:
    """`status`, `message` and `retry_after_s` make the refusal of a real provider."""
    script = '#sandbox {"status": 429, "retry_after_s": 3, "message": "slow down"}'
    response = await Sandbox().send(chat(script), timeouts=QUICK)
    assert response.status == 429
    assert response.headers["Retry-After"] == "3"
    assert json.loads(await response.read(1000))["error"]["message"] == "slow down"


@pytest.mark.parametrize(
    ("timeouts", "kind"),
    [
        (Timeouts(connect_s=1, first_byte_s=1, idle_s=0.02, total_s=5), AttemptFailed),
        (Timeouts(connect_s=1, first_byte_s=1, idle_s=5, total_s=0.05), TotalTimeReached),
    ],
)
async def test_obeys_the_timeouts(timeouts: Timeouts, kind: type[AttemptFailed]) -> None:
    """A gap longer than the idle time, or beyond the total, fails as over the network."""
    with pytest.raises(kind) as failed:
        await events(chat('#sandbox {"gap_ms": 60000}', stream=True), timeouts)
    assert failed.value.outcome is Outcome.TIMED_OUT


async def test_refuses_what_it_cannot_read() -> None:
    """A wrong directive or body is a 400 with words, not an exception."""
    for http_call in (chat('#sandbox {"chunks": -1}'), chat("#sandbox nonsense"), call("/chat/completions", [])):
        assert (await Sandbox().send(http_call, timeouts=QUICK)).status == 400
    assert (await Sandbox().send(call("/rerank", {}), timeouts=QUICK)).status == 404


@pytest.mark.parametrize("include_usage", [True, False])
async def test_the_openai_wire_reads_it(include_usage: bool) -> None:
    """A stream of the sandbox goes through the reader that real providers' streams go through."""
    script = '#sandbox {"chunks": 5, "output_tokens": 20, "prompt_tokens": 9}'
    stream = await events(chat(script, stream=True, stream_options={"include_usage": True}))
    reader = ChatStream(model="public", include_usage=include_usage, limits=UsageLimits(max_input=9, max_output=20))
    out = b"".join(reader.feed(event) for event in stream)
    captured = reader.finish()
    assert captured.tokens == Tokens(input=9, output=20)
    assert captured.complete
    assert b'"model":"m"' not in out
    assert len(reader.delivered_text().split()) == 20
    for event in (out + reader.closing(tokens=captured.tokens, cost="0.1")).split(b"\n\n"):
        if event.startswith(b"data: {"):
            ChatCompletionChunk.model_validate_json(event[6:], strict=True)
