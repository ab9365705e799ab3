"""Streams come through whole in all four crossings of client and provider, however the bytes fall."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import Tokens
from services.edge.translate.chat_over_messages import ChatOverMessages
from services.edge.translate.messages_over_chat import MessagesOverChat
from upstream.anthropic.native import MessagesRelay
from upstream.openai.chat_stream import ChatStream
from upstream.usage import StreamReader

SPENT = Tokens(input=5, cached_input=3, output=7)
TEXT = "Grüße, 世界! 🎉\r\n"

Wire = Callable[[list[str]], list[dict[str, Any]]]


def chat_events(arguments: list[str]) -> list[dict[str, Any]]:
    """Reasoning, text and two calls as OpenAI's providers stream them."""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "theirs", "choices": [choice]}

    def call(index: int, **function: str) -> dict[str, Any]:
        named = {"id": f"t{index}", "type": "function"} if "name" in function else {}
        return {"tool_calls": [{"index": index, **named, "function": function}]}

    return [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm "}),
        chunk({"reasoning_content": "ja"}),
        *(chunk({"content": sign}) for sign in TEXT),
        chunk(call(0, name="f", arguments="")),
        *(chunk(call(0, arguments=piece)) for piece in arguments),
        chunk(call(1, name="g", arguments="{}")),
        chunk({}, "tool_calls"),
        {**chunk({}), "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 7}},
    ]


def messages_events(arguments: list[str]) -> list[dict[str, Any]]:
    """The same as Anthropic streams it."""

    def delta(index: int, **fields: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": fields}

    def block(index: int, deltas: list[dict[str, Any]], **begin: Any) -> Iterator[dict[str, Any]]:
        yield {"type": "content_block_start", "index": index, "content_block": begin}
        yield from deltas
        yield {"type": "content_block_stop", "index": index}

    usage = {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 7}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "theirs", "content": [], "usage": usage}
    thoughts = [delta(0, type="thinking_delta", thinking=piece) for piece in ("hm ", "ja")]
    texts = [delta(1, type="text_delta", text=sign) for sign in TEXT]
    pieces = [delta(2, type="input_json_delta", partial_json=piece) for piece in arguments]
    return [
        {"type": "message_start", "message": {**message, "usage": {**usage, "output_tokens": 1}}},
        {"type": "ping"},
        *block(
            0, [*thoughts, delta(0, type="signature_delta", signature="s")], type="thinking", thinking="", signature=""
        ),
        *block(1, texts, type="text", text=""),
        *block(2, pieces, type="tool_use", id="t0", name="f", input={}),
        *block(3, [], type="tool_use", id="t1", name="g", input={}),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]


def wire(events: list[dict[str, Any]], *, end: str = "\n", ascii_only: bool = False) -> bytes:
    """The events as bytes, with comments between them."""
    named = "type" in events[0]
    lines = []
    for event in events:
        head = f"event: {event['type']}{end}" if named else ""
        lines.append(f": keep-alive{end}{end}{head}data: {json.dumps(event, ensure_ascii=ascii_only)}{end}{end}")
    return ("".join(lines) + ("" if named else f"data: [DONE]{end}{end}")).encode()


READERS: dict[str, tuple[Wire, Callable[[], StreamReader]]] = {
    "chat over chat": (chat_events, lambda: ChatStream(model="public", include_usage=True)),
    "chat over messages": (
        messages_events,
        lambda: ChatOverMessages(model="public", include_usage=True, created=1),
    ),
    "messages over messages": (messages_events, lambda: MessagesRelay(model="public")),
    "messages over chat": (chat_events, lambda: MessagesOverChat(model="public", stops=())),
}


def read(crossing: str, reads: list[bytes]) -> tuple[dict[str, Any], str]:
    """What a client understands of the stream; what counts as delivered."""
    reader = READERS[crossing][1]()
    out = b"".join(reader.feed(part) for part in reads)
    captured = reader.finish()
    assert captured.complete
    assert captured.tokens is not None
    out += reader.closing(tokens=captured.tokens, cost="0.5")
    understood = as_chat(out) if crossing.startswith("chat") else as_message(out)
    return understood, reader.delivered_text()


def as_chat(out: bytes) -> dict[str, Any]:
    """An OpenAI client's view of a stream."""
    seen: dict[str, Any] = {"text": "", "thinking": "", "calls": {}}
    for event in out.split(b"\n\n"):
        if not event.startswith(b"data: {"):
            continue
        chunk = json.loads(event[6:])
        assert chunk["model"] == "public"
        seen["usage"] = chunk.get("usage")
        for choice in chunk["choices"]:
            delta = choice["delta"]
            seen["text"] += delta.get("content") or ""
            seen["thinking"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", []):
                known = seen["calls"].setdefault(call["index"], ["", "", ""])
                known[0] += call.get("id", "")
                known[1] += call["function"].get("name", "")
                known[2] += call["function"].get("arguments", "")
            seen["stop"] = choice["finish_reason"] or seen.get("stop")
    seen["calls"] = [(call_id, name, json.loads(text)) for call_id, name, text in seen["calls"].values()]
    return seen


def as_message(out: bytes) -> dict[str, Any]:
    """An Anthropic client's view of a stream; the order of its events and their indexes are checked on the way."""
    blocks: list[dict[str, Any]] = []
    names: list[str] = []
    told: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for event in out.split(b"\n\n"):
        name, _, data = event.partition(b"\ndata: ")
        if not name.startswith(b"event: "):
            continue
        told = json.loads(data)
        assert name == b"event: " + told["type"].encode()
        names += [told["type"]] if told["type"] != "ping" else []
        if told["type"] == "message_start":
            assert told["message"]["model"] == "public"
        elif told["type"] == "content_block_start":
            assert told["index"] == len(blocks)
            blocks.append({**told["content_block"], "pieces": []})
        elif told["type"] == "content_block_delta":
            assert told["index"] == len(blocks) - 1
            kind = told["delta"].pop("type")
            blocks[-1]["pieces"] += [piece for piece in told["delta"].values() if kind != "signature_delta"]
        elif told["type"] == "message_delta":
            last = told
    order = [kind for kind, _ in itertools.groupby(names)]
    begun, ended = "content_block_start", "content_block_stop"
    inside = [kind for kind in order[1:-2] if kind != "content_block_delta"]
    assert (order[0], order[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert inside == [begun, ended] * len(blocks)
    said = {
        kind: "".join(itertools.chain(*(b["pieces"] for b in blocks if b["type"] == kind)))
        for kind in ("text", "thinking")
    }
    calls = [block for block in blocks if block["type"] == "tool_use"]
    return {
        **said,
        "calls": [(call["id"], call["name"], json.loads("".join(call["pieces"]) or "{}")) for call in calls],
        "stop": last["delta"]["stop_reason"],
        "usage": last["usage"],
    }


def check(crossing: str, reads: list[bytes], arguments: str) -> None:
    """Everything came through, and all of it counts as delivered."""
    seen, delivered = read(crossing, reads)
    assert seen["text"] == TEXT
    assert seen["thinking"] == "hm ja"
    assert seen["calls"] == [("t0", "f", json.loads(arguments)), ("t1", "g", {})]
    assert seen["stop"] in ("tool_calls", "tool_use")
    assert seen["usage"]["cost"] == 0.5
    for part in (TEXT, "hm ja", arguments, "f", "g"):
        assert part in delivered


@st.composite
def splits(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A stream with any line ends, cut anywhere, also within a sign."""
    crossing = draw(st.sampled_from(sorted(READERS)))
    data = wire(
        READERS[crossing][0](['{"a": "ü', '🎉", "b', '": [1]}']),
        end=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        ascii_only=draw(st.booleans()),
    )
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=30)))
    return crossing, [data[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(data)])]


@given(splits())
@settings(max_examples=80, deadline=None)
def test_streams_come_through_wherever_the_reads_fall(found: tuple[str, list[bytes]]) -> None:
    """Signs of several bytes, CRLF and comments: what the client understands is what the provider said."""
    crossing, reads = found
    check(crossing, reads, '{"a": "ü🎉", "b": [1]}')


@pytest.mark.parametrize("crossing", sorted(READERS))
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_megabyte_of_arguments_comes_through(crossing: str, size: int) -> None:
    """In pieces of a few signs, or all at once."""
    arguments = json.dumps({"text": 'ü"\n🎉x' * (120_000 if size > 1 else 1_000)}, ensure_ascii=False)
    assert size == 1 or len(arguments.encode()) > 1_000_000
    pieces = [arguments[start : start + size] for start in range(0, len(arguments), size)]
    data = wire(READERS[crossing][0](pieces), ascii_only=size == 1 << 20)
    reads = [data[start : start + 65_537] for start in range(0, len(data), 65_537)]
    check(crossing, reads, arguments)
