"""Calls in a stream have numbers of their own, and the finish says that there were calls."""

import json
from typing import Any

import pytest

from tests.unit.upstream.odd_calls import ODD, pieces_of
from upstream.openai.chat_stream import ChatStream

CALLS = [
    {"name": "find", "input": {"a": 1}},
    {"name": "close", "input": {"b": 1}},
    {"name": "close", "input": {"b": 2}},
]


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
            known = calls.setdefault(call["index"], ["", "", ""])
            known[0] += call.get("id") or ""
            known[1] += call["function"].get("name") or ""
            known[2] += call["function"].get("arguments") or ""
    return calls, last


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize("way", ODD)
def test_calls_can_be_put_together(way: str, finish: str) -> None:
    """However the provider numbers and calls them; and whoever waits for the finish of calls gets it."""
    pieces = [piece for call in ODD[way](pieces_of(CALLS, cut=3)) for piece in call]
    calls, last = put_together(pieces, finish=finish)
    assert list(calls) == [0, 1, 2]
    assert [call[1:] for call in calls.values()] == [[call["name"], json.dumps(call["input"])] for call in CALLS]
    ids = [call[0] for call in calls.values()]
    assert all(ids)
    assert len(set(ids)) == 3
    assert last == "tool_calls"


def test_calls_as_they_should_be_stay_as_they_are() -> None:
    """Ids too."""
    calls, _ = put_together([piece for call in pieces_of(CALLS, cut=3) for piece in call], finish="tool_calls")
    assert [call[0] for call in calls.values()] == ["call_0", "call_1", "call_2"]


def test_other_finishes_stay() -> None:
    """A limit that cut the calls is no finish of calls, and without calls nothing is changed."""
    assert put_together(pieces_of(CALLS, cut=3)[0], finish="length")[1] == "length"
    assert put_together([], finish="stop") == ({}, "stop")
