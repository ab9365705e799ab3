"""Whatever a chat provider streams, a client gets proper events: readable, framed, without the provider's model.

Each stream is read in one piece, event by event and byte by byte; what comes of it must not depend on that.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pricing.tokens import Tokens
from services.edge.translate.messages_over_chat import MessagesOverChat
from services.edge.translate.responses_over_chat import ResponseHead, ResponsesOverChat
from upstream.openai.chat_stream import ChatStream
from upstream.outcome import ProviderMisbehaved
from upstream.usage import StreamReader

SECRET = "theirs-secret-7b"
WHOLE, BROKEN = True, False


def event(said: dict[str, Any] | bytes | None = None, *, finish: str | None = None, **fields: Any) -> bytes:
    """A chunk with a delta, or bytes in its place."""
    choice = {"index": 0, "delta": said, "finish_reason": finish}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": SECRET, "choices": [choice]}
    return b"data: " + (said if isinstance(said, bytes) else json.dumps({**chunk, **fields}).encode()) + b"\n\n"


def raw(text: bytes) -> bytes:
    """A content event with these bytes between the quotes."""
    return event({"content": "HERE"}).replace(b"HERE", text)


DONE = b"data: [DONE]\n\n"
START = event({"role": "assistant", "content": "a"}) + event({"content": "b"})
END = event({}, finish="stop") + DONE
CALL = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
STREAMS: dict[str, tuple[bool, bytes]] = {
    "a byte order mark": (WHOLE, b"\xef\xbb\xbf" + START + END),
    "bytes that are no utf-8": (WHOLE, START + raw(b"\xff\xc3") + raw(b"\xe4\xb8") + END),
    "halves of a sign": (WHOLE, START + raw(rb"\ud83d") + raw(rb"\ude00") + END),
    "a zero byte": (WHOLE, START + raw(rb"\u0000") + b"\0\n\n" + END),
    "line ends in texts": (WHOLE, START + raw(rb"\r\n\r\ndata: [DONE]\n\n") + event({}, id="a\r\n\r\nb") + END),
    "carriage returns": (WHOLE, (START + END).replace(b"\n", b"\r")),
    "both line ends": (WHOLE, (START + END).replace(b"\n", b"\r\n")),
    "comments, ids, retries and names": (WHOLE, b": x\n\nid: 1\nretry: 5\nevent: message\n" + START + b":\n\n" + END),
    "data over several lines": (
        WHOLE,
        START + b'data: {"model":"' + SECRET.encode() + b'",\ndata: "choices":[]}\n\n' + END,
    ),
    "no blank in front of data": (WHOLE, (START + END).replace(b"data: ", b"data:")),
    "blank events": (WHOLE, b"data\n\ndata:\n\n\n\n\n" + START + END),
    "no choices": (WHOLE, START + event({}, choices=[]) + event({}, choices=None) + event(b"{}") + END),
    "deltas that are null": (WHOLE, START + event(None) + event({"content": None, "tool_calls": None}) + END),
    "content as parts": (WHOLE, START + event({"content": [{"type": "text", "text": "c"}, None, 5]}) + END),
    "two finishes": (WHOLE, START + event({}, finish="stop") + event({}, finish="length") + DONE),
    "a finish and no end mark": (WHOLE, START + event({}, finish="stop")),
    "an end mark and no finish": (WHOLE, START + b"data:  [DONE] \n\n"),
    "words after the end": (WHOLE, START + END + event({"content": "LATE"}) + event(b'{"error":"LATE"}')),
    "usage in every chunk": (
        WHOLE,
        START + event({"content": "c"}, usage={"prompt_tokens": 1, "completion_tokens": 1}) + END,
    ),
    "usage that is none": (
        WHOLE,
        START + event({}, choices=[], usage="many") + event({}, choices=[], usage=[-1]) + END,
    ),
    "names of models": (
        WHOLE,
        START + event({}, model=5) + event({}, model=None) + event({}, choices=[], model={}) + END,
    ),
    "two names of one model": (
        WHOLE,
        START + event(b'{"model":"x","choices":[],"mod\\u0065l":"%s"}' % SECRET.encode()) + END,
    ),
    "deep nesting": (WHOLE, START + event(b'{"z":' + b"[" * 200 + b"]" * 200 + b"}") + END),
    "odd calls": (WHOLE, START + event({"tool_calls": [None, 5, {}, {"function": 5}, {"index": "x", "id": 7}]}) + END),
    "a call again and again": (WHOLE, START + event({"tool_calls": [CALL]}) * 3 + END),
    "finishes that are no words": (WHOLE, START + event({}, finish=5) + END),  # type: ignore[arg-type]  # hostile
    "an error": (BROKEN, START + event(b'{"error":{"message":"no","code":429}}') + END),
    "an error as the event": (BROKEN, START + event(b'{"object":"error","message":"no","code":400}') + END),
    "an error by its name": (BROKEN, START + b'event: error\ndata: {"message":"no"}\n\n' + END),
    "nothing more": (BROKEN, START),
    "no json": (BROKEN, START + event(b"{") + END),
    "no chunk": (BROKEN, START + event(b"[1]") + END),
    "a bomb of brackets": (BROKEN, START + event(b'{"z":' + b"[" * 100_000) + END),
    "a deep delta": (
        BROKEN,
        START + event(b'{"choices":[{"delta":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}]}") + END,
    ),
    "a number beyond all": (BROKEN, START + event(b'{"choices":[{"index":1e999,"delta":{"content":"x"}}]}') + END),
    "json without data": (BROKEN, START.replace(b"data: ", b"")),
}
READERS: dict[str, Callable[[], StreamReader]] = {
    "chat": lambda: ChatStream(model="public", include_usage=True),
    "messages": lambda: MessagesOverChat(model="public", stops=()),
    "responses": lambda: ResponsesOverChat(
        inner=ChatStream(model="public", include_usage=False), head=ResponseHead(b"{}", model="public")
    ),
}


def read(reader: StreamReader, pieces: Iterable[bytes]) -> tuple[bool, bytes]:
    """Whether the answer is whole, and what the client got of it."""
    out = b""
    try:
        for piece in pieces:
            out += reader.feed(piece)
    except ProviderMisbehaved:
        return BROKEN, out
    whole = reader.finish().complete
    return whole, out + (reader.closing(tokens=Tokens(input=1, output=1), cost="0.5") if whole else b"")


def understood(out: bytes) -> list[Any]:
    """The events, checked; ids and times that are ours alone left out."""
    assert SECRET.encode() not in out
    assert b"LATE" not in out
    assert out == b"" or out.endswith(b"\n\n")
    found = []
    for each in out.decode().split("\n\n"):
        lines = each.split("\n")
        assert all(line.startswith(("data: ", "event: ", ":")) or not line for line in lines)
        data = [line[6:] for line in lines if line.startswith("data: ")]
        assert len(data) <= 1
        found += [json.loads(text) if text != "[DONE]" else text for text in data]
    return [_without_ids(each) for each in found]


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        own = ("id", "item_id", "call_id", "created_at", "completed_at")
        return {name: _without_ids(each) for name, each in value.items() if name not in own}
    return [_without_ids(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", STREAMS)
def test_what_comes_of_an_odd_stream(name: str, kind: str) -> None:
    """Proper events in any case, the same however the bytes fall, and an end only where there is one."""
    expected, data = STREAMS[name]
    whole, out = read(READERS[kind](), [data])
    assert whole is expected
    events = understood(out)
    assert events or whole is BROKEN
    by_event = [part + b"\n\n" for part in data.split(b"\n\n")]
    by_byte = [data[place : place + 1] for place in range(len(data))] if len(data) < 20_000 else [data]
    for pieces in (by_event, by_byte):
        again, other = read(READERS[kind](), pieces)
        assert again is expected
        if whole:
            assert understood(other) == events
