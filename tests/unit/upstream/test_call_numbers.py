"""Calls in a stream have numbers of their own, and the finish says that there were calls."""

import json
from typing import Any

import pytest

from upstream.openai.chat_stream import ChatStream

F = {"name": "f", "arguments": '{"a":'}
G = {"name": "g", "arguments": '{"b":'}
REST = {"arguments": "1}"}
WAYS: dict[str, list[dict[str, Any]]] = {
    "as it should be": [
        {"index": 0, "id": "x", "function": F},
        {"index": 0, "function": REST},
        {"index": 1, "id": "y", "function": G},
        {"index": 1, "function": REST},
    ],
    "mixed": [
        {"index": 0, "id": "x", "function": F},
        {"index": 1, "id": "y", "function": G},
        {"index": 0, "function": REST},
        {"index": 1, "function": REST},
    ],
    "without numbers": [
        {"id": "x", "function": F},
        {"function": REST},
        {"id": "y", "function": G},
        {"function": REST},
    ],
    "null for a number": [
        {"index": None, "id": "x", "function": F},
        {"index": None, "function": REST},
        {"index": None, "id": "y", "function": G},
        {"index": None, "function": REST},
    ],
    "all under one number": [
        {"index": 0, "id": "x", "function": F},
        {"index": 0, "function": REST},
        {"index": 0, "id": "y", "function": G},
        {"index": 0, "function": REST},
    ],
    "the id with every piece": [
        {"id": "x", "function": F},
        {"id": "x", "function": REST},
        {"id": "y", "function": G},
        {"id": "y", "function": REST},
    ],
    "numbers that begin at one": [
        {"index": 1, "id": "x", "function": F},
        {"index": 1, "function": REST},
        {"index": 2, "id": "y", "function": G},
        {"index": 2, "function": REST},
    ],
    "neither numbers nor ids": [{"function": F}, {"function": REST}, {"function": G}, {"function": REST}],
}


def put_together(pieces: list[dict[str, Any]], *, finish: str) -> tuple[dict[int, list[str]], str]:
    """The calls as OpenAI's SDKs put them together, and the finish."""
    stream = ChatStream(model="public", include_usage=False)
    out = b""
    ends = [({"content": "Hm"}, None), *(({"tool_calls": [piece]}, None) for piece in pieces), ({}, finish)]
    for delta, reason in ends:
        chunk = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        out += stream.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    calls: dict[int, list[str]] = {}
    last = ""
    for line in out.decode().split("\n\n")[:-1]:
        choice = json.loads(line.removeprefix("data: "))["choices"][0]
        last = choice["finish_reason"] or last
        for call in choice["delta"].get("tool_calls", []):
            known = calls.setdefault(call["index"], ["", ""])
            known[0] += call["function"].get("name", "")
            known[1] += call["function"].get("arguments", "")
    return calls, last


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize("way", WAYS)
def test_calls_can_be_put_together(way: str, finish: str) -> None:
    """However the provider numbers them; and whoever waits for the finish of calls gets it."""
    calls, last = put_together(WAYS[way], finish=finish)
    assert calls == {0: ["f", '{"a":1}'], 1: ["g", '{"b":1}']}
    assert last == "tool_calls"


def test_other_finishes_stay() -> None:
    """A limit that cut the calls is no finish of calls, and without calls nothing is changed."""
    assert put_together(WAYS["mixed"], finish="length")[1] == "length"
    assert put_together([], finish="stop") == ({}, "stop")
