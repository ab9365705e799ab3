"""Providers whose answers are nearly OpenAI's: what SDKs read without asking is there, and in OpenAI's shape."""

import json
from typing import Any

import pytest

from pricing.tokens import Tokens
from upstream.openai.chat import read_answer
from upstream.openai.chat_chunks import ChatChunks
from upstream.openai.chat_stream import ChatStream
from upstream.openai.completions import CompletionStream
from upstream.openai.completions import read_answer as read_completion

THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
TEXT = {"type": "text", "text": "Ahoj"}


def chunk(choice: dict[str, Any], **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": None, **choice}]
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "theirs", "choices": choices, **more}


def deltas(*events: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    """What they say, whoever speaks."""
    found = [each["choices"][0]["delta"] for each in relayed(*events)]
    return [{name: value for name, value in each.items() if name != "role"} for each in found]


def relayed(*events: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    """What a client gets of these events, each fed as one read; every line of it has to be a whole event."""
    reader = ChatStream(model="public", include_usage=False)
    reads = [event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() for event in events]
    out = b"".join(reader.feed(read + b"\n\n") for read in reads)
    lines = out.decode().splitlines()
    assert all(line.startswith("data: ") for line in lines if line)
    return [json.loads(line[6:]) for line in lines if line]


def whole(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}]
    answer = read_answer(json.dumps({"choices": choices, "usage": usage, **more}).encode(), model="public")
    rendered: dict[str, Any] = json.loads(answer.render(tokens=answer.captured.tokens, cost=None))  # type: ignore[arg-type]  # it says both
    return rendered


def test_an_event_of_several_lines_leaves_on_one() -> None:
    """A provider may write its JSON over many lines of data; a line without its name would end the client's stream."""
    pretty = json.dumps(chunk({"delta": {"content": "Hi"}}), indent=1).encode()
    event = b"\n".join(b"data: " + line for line in pretty.split(b"\n"))
    assert deltas(event) == [{"content": "Hi"}]


@pytest.mark.parametrize("delta", [{}, {"delta": None}])
def test_a_chunk_without_a_delta_has_an_empty_one(delta: dict[str, Any]) -> None:
    """Azure's chunks about its filters have none, at the beginning and in the midst of the text."""
    filtered = chunk({**delta, "content_filter_results": {}})
    text = chunk({"delta": {"content": "Hi"}})
    assert deltas(filtered, text, text, filtered, text) == [{}, *[{"content": "Hi"}] * 2, {}, {"content": "Hi"}]


@pytest.mark.parametrize("first", [{}, {"delta": {"content": "Hi"}}, {"delta": {"role": "assistant", "content": "Hi"}}])
def test_the_first_chunk_alone_says_who_speaks(first: dict[str, Any]) -> None:
    """OpenAI's SDK for Node refuses a stream whose deltas have no role, and the one for Python adds the roles up."""
    text = chunk({"delta": {"role": "assistant", "content": "Hi"}})
    found = relayed(chunk(first), *[text] * 3)
    assert [each["choices"][0]["delta"].get("role") for each in found] == ["assistant", None, None, None]


def test_each_choice_says_who_speaks() -> None:
    """Also one that begins when others have said much."""
    text = chunk({"delta": {"content": "Hi"}})
    found = relayed(text, text, chunk({"index": 1, "delta": {"role": "assistant", "content": "Ho"}}))
    assert found[-1]["choices"][0]["delta"] == {"role": "assistant", "content": "Ho"}


def test_the_last_chunks_have_the_id_of_the_others() -> None:
    """Azure's filters send chunks without any id before the text and amid it; its id is known then."""
    bare = {**chunk({}), "id": "", "created": 0}
    text = chunk({"delta": {"content": "Hi"}})
    reader = ChatStream(model="public", include_usage=True)
    out = b"".join(reader.feed(b"data: " + json.dumps(each).encode() + b"\n\n") for each in (bare, text, bare, text))
    out += reader.closing(tokens=Tokens(), cost=None)
    found = [json.loads(event[6:]) for event in out.split(b"\n\n") if event.startswith(b"data: {")]
    assert [(each["id"], each["created"]) for each in found[1:]] == [("c-1", 7)] * 4
    assert found[0]["id"].startswith("chatcmpl-")


def test_chunks_without_an_id_share_one() -> None:
    """Clients put a stream's chunks together by it, and typed ones refuse those without a kind or a time."""
    named = ("id", "object", "created")
    bare = {name: value for name, value in chunk({"delta": {"content": "Hi"}}).items() if name not in named}
    found = relayed(*[bare] * 3)
    assert {each["object"] for each in found} == {"chat.completion.chunk"}
    assert len({(each["id"], each["created"]) for each in found}) == 1
    assert found[0]["id"]
    assert found[0]["created"] > 0


def test_a_completion_that_has_no_id_is_named_as_one() -> None:
    """By the first letters of ids some tell what an answer is of."""
    bare = {"choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]}
    whole = read_completion(json.dumps(bare).encode(), model="public").render(tokens=Tokens(), cost=None)
    assert json.loads(whole)["id"].startswith("cmpl-")
    out = CompletionStream(model="public", include_usage=False).feed(b"data: " + json.dumps(bare).encode() + b"\n\n")
    assert json.loads(out.split(b"\n\n")[0][6:])["id"].startswith("cmpl-")


def test_an_empty_head_is_none() -> None:
    """Azure's first chunk has an empty id and kind, and no time."""
    first = {**chunk({"delta": {}}), "id": "", "object": "", "created": 0}
    found = relayed(first)[0]
    assert found["id"]
    assert (found["object"], found["created"] > 0) == ("chat.completion.chunk", True)


def test_content_in_parts_is_streamed_as_text_and_reasoning() -> None:
    """Mistral's thinking models stream lists, between plain texts too; SDKs add up what they take for text."""
    parts = [chunk({"delta": {"content": [part]}}) for part in (THINKING, TEXT)]
    plain = chunk({"delta": {"content": "!"}})
    found = deltas(*parts, plain, plain, *parts)
    mended = [{"content": None, "reasoning_content": "hm"}, {"content": "Ahoj"}]
    assert found == [*mended, {"content": "!"}, {"content": "!"}, *mended]


def test_content_in_parts_is_read_alike_for_other_endpoints() -> None:
    """Messages and Responses are made of the same chunks."""
    event = b"data: " + json.dumps(chunk({"delta": {"content": [THINKING, TEXT]}})).encode() + b"\n\n"
    (choice,) = ChatChunks().feed(event)
    assert choice["delta"] == {"content": "Ahoj", "reasoning_content": "hm"}


def test_whole_content_in_parts_is_text_and_reasoning() -> None:
    """As in a stream."""
    message = whole({"content": [THINKING, TEXT]})["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Ahoj", "hm")


def test_parts_that_are_no_text_stay_as_they_came() -> None:
    """A picture in an answer has no place in a text."""
    parts = [TEXT, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert whole({"content": parts})["choices"][0]["message"]["content"] == parts


def test_calls_of_a_whole_answer_have_ids_and_written_arguments() -> None:
    """Results are matched by id, and arguments are read as JSON text."""
    calls = [{"id": "", "function": {"name": "f", "arguments": {"a": 1}}}, {"id": "x", "function": {"name": "g"}}]
    choice = whole({"content": None, "tool_calls": [*calls, calls[1]]})["choices"][0]
    found = choice["message"]["tool_calls"]
    assert len({call["id"] for call in found}) == 3
    assert (found[0]["type"], json.loads(found[0]["function"]["arguments"])) == ("function", {"a": 1})
    assert (found[1]["id"], choice["finish_reason"]) == ("x", "tool_calls")


def test_a_whole_answer_without_a_head_gets_one() -> None:
    """As in a stream."""
    found = whole({"content": "Hi"})
    assert (found["object"], bool(found["id"]), found["created"] > 0) == ("chat.completion", True, True)
