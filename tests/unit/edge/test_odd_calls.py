"""Calls of odd providers stay apart in all three protocols that clients speak."""

import json
from typing import Any

import pytest

from pricing.tokens import Tokens
from services.edge.translate.messages_over_chat import MessagesOverChat
from services.edge.translate.responses_over_chat import ResponseHead, ResponsesOverChat
from tests.unit.upstream.odd_calls import ODD, pieces_of
from upstream.openai.chat_stream import ChatStream
from upstream.usage import StreamReader

CALLS = [
    {"name": "find", "input": {"a": 1}},
    {"name": "close", "input": {"b": 1}},
    {"name": "close", "input": {"b": 1}},
]


def events(reader: StreamReader, way: str) -> list[dict[str, Any]]:
    """What a client gets of calls that come in this way."""
    return told_of(reader, [{"tool_calls": [piece]} for call in ODD[way](pieces_of(CALLS, cut=4)) for piece in call])


def told_of(reader: StreamReader, deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The data of the events."""
    ends = [*((delta, None) for delta in deltas), ({}, "stop")]
    out = b""
    for delta, finish in ends:
        chunk = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        out += reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    out += reader.feed(b"data: [DONE]\n\n") + reader.closing(tokens=Tokens(), cost=None)
    return [json.loads(line[6:]) for line in out.decode().split("\n") if line.startswith("data: {")]


@pytest.mark.parametrize("way", ODD)
def test_calls_of_a_message_stay_apart(way: str) -> None:
    """Each a block with an id of its own, and one after the other."""
    told = events(MessagesOverChat(model="m", stops=()), way)
    blocks = [event["content_block"] for event in told if event["type"] == "content_block_start"]
    given = [""] * len(blocks)
    for event in told:
        if event["type"] == "content_block_delta":
            given[event["index"]] += event["delta"]["partial_json"]
    found = [(block["name"], json.loads(text)) for block, text in zip(blocks, given, strict=True)]
    assert found == [(call["name"], call["input"]) for call in CALLS]
    assert len({block["id"] for block in blocks}) == len(CALLS)
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("way", ODD)
def test_calls_of_a_response_stay_apart(way: str) -> None:
    """Each an item with an id of its own, whole when it is done."""
    head = ResponseHead(b'{"model":"m","input":"x"}', model="m")
    told = events(ResponsesOverChat(inner=ChatStream(model="m", include_usage=False), head=head), way)
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert [(item["name"], json.loads(item["arguments"])) for item in done] == [
        (call["name"], call["input"]) for call in CALLS
    ]
    assert len({item["call_id"] for item in done}) == len(CALLS)
    assert told[-1]["response"]["output"] == done


@pytest.mark.parametrize("follows", [{"content": "Hi"}, {"tool_calls": [pieces_of(CALLS, cut=99)[1][1]]}])
def test_items_of_a_response_are_told_in_their_order(follows: dict[str, Any]) -> None:
    """OpenAI's SDKs count them: an item that is told before an earlier one, a call without arguments, breaks them."""
    head = ResponseHead(b'{"model":"m","input":"x"}', model="m")
    reader = ResponsesOverChat(inner=ChatStream(model="m", include_usage=False), head=head)
    told = told_of(reader, [{"tool_calls": [call[0]]} for call in pieces_of(CALLS, cut=9)] + [follows])
    added = [event["output_index"] for event in told if event["type"] == "response.output_item.added"]
    assert added == list(range(len(told[-1]["response"]["output"])))


def test_what_waits_is_counted_once() -> None:
    """A provider may repeat a call's id for as long as it likes without more arguments."""
    first, waiting = (call[0] for call in pieces_of(CALLS, cut=4)[:2])
    repeated = {**waiting, "function": {"name": waiting["function"]["name"], "arguments": "x" * 100_000}}
    pieces = [first, repeated, *[waiting] * 20]
    told = told_of(MessagesOverChat(model="m", stops=()), [{"tool_calls": [piece]} for piece in pieces])
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


def begun(way: str, offered: list[str], *pieces: str) -> str:
    """The name that the client knows of a call, of whose name these pieces have come, and no arguments."""
    if way == "messages":
        reader: StreamReader = MessagesOverChat(model="m", stops=(), names={name: name for name in offered})
    else:
        body = {"model": "m", "input": "x", "tools": [{"type": "function", "name": name} for name in offered]}
        inner = ChatStream(model="m", include_usage=False)
        reader = ResponsesOverChat(inner=inner, head=ResponseHead(json.dumps(body).encode(), model="m"))
    out = b""
    for piece in pieces:
        call = {"index": 0, "id": "c", "type": "function", "function": {"name": piece, "arguments": ""}}
        chunk = {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
        out += reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    told = [json.loads(line[6:]) for line in out.decode().split("\n") if line.startswith("data: {")]
    items = [each.get("content_block") or each.get("item") for each in told]
    return "".join(item["name"] for item in items if item)


@pytest.mark.parametrize("way", ["messages", "responses"])
def test_a_call_is_told_as_soon_as_its_name_is_whole(way: str) -> None:
    """Arguments may be long in coming. A name that begins another tool's, or is no tool's, may not be all."""
    assert begun(way, ["find", "open"], "find") == "find"
    assert begun(way, ["find", "open"], "fi", "nd") == "find"
    assert begun(way, ["find", "find_all"], "find") == ""
    assert begun(way, ["find", "find_all"], "find", "_all") == "find_all"
    assert begun(way, ["open"], "find") == ""
