"""A provider that never ends its answer fills no memory, and its client is charged what was paid for at most."""

import json
from collections.abc import AsyncIterator, Callable

import pytest

from pricing.prices import Rates
from pricing.tokens import Tokens
from services.edge.paid import opening
from services.edge.translate.chat_over_messages import ChatOverMessages
from services.edge.translate.messages_over_chat import MessagesOverChat
from services.edge.translate.responses_over_chat import ResponseHead, ResponsesOverChat
from tests.unit.edge.web_provider import Provider, chunk, stream
from tests.unit.edge.world import World
from tollbridge.usage.v1 import usage_pb2
from upstream import kept_text
from upstream.anthropic.native import MessagesRelay
from upstream.openai.call_pieces import MOST_CALLS
from upstream.openai.chat_stream import MOST_CHOICES, ChatStream
from upstream.openai.completions import CompletionStream
from upstream.openai.speech import SpeechStream, Spoken
from upstream.outcome import ProviderMisbehaved
from upstream.usage import StreamReader, UsageLimits, count_tokens

LIMITS = UsageLimits(max_input=10, max_output=100)
PIECE = " word" * 2000


def said(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "text": text, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"


def told(text: str) -> bytes:
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return b"event: content_block_delta\ndata: " + json.dumps(delta).encode() + b"\n\n"


READERS: dict[str, tuple[Callable[[], StreamReader], Callable[[str], bytes]]] = {
    "chat": (lambda: ChatStream(model="m", include_usage=True, limits=LIMITS), said),
    "completion": (lambda: CompletionStream(model="m", include_usage=True, limits=LIMITS), said),
    "messages over chat": (lambda: MessagesOverChat(model="m", stops=(), limits=LIMITS), said),
    "messages": (lambda: MessagesRelay(model="m", limits=LIMITS), told),
    "chat over messages": (
        lambda: ChatOverMessages(model="m", include_usage=True, created=1, limits=LIMITS),
        told,
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_no_more_text_is_kept_than_can_be_charged(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What is kept is more than the limit when counted, so that the charge is the same; and then nothing more is."""
    monkeypatch.setattr(kept_text, "LEAST_CHARACTERS", 0)
    make, piece = READERS[name]
    reader, sizes = make(), []
    for _ in range(120):
        assert reader.feed(piece(PIECE))
        sizes.append(len(reader.delivered_text()))
    assert count_tokens(reader.delivered_text(), "gpt-5") > LIMITS.max_output
    assert sizes[-1] == sizes[-20], "it still grows"


def event(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def delta(**fields: object) -> bytes:
    choice = {"index": 0, "delta": fields, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"


def call(number: int, name: str, arguments: str) -> bytes:
    return delta(tool_calls=[{"index": number, "id": f"t{number}", "function": {"name": name, "arguments": arguments}}])


def responses() -> StreamReader:
    head = ResponseHead(b'{"model":"m","input":"x"}', model="m")
    return ResponsesOverChat(inner=ChatStream(model="m", include_usage=False, limits=LIMITS), head=head, limits=LIMITS)


THINKS = event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
LIKELY = {"content": [{"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}]}
HELD: dict[str, tuple[Callable[[], StreamReader], bytes, bytes]] = {
    "text of a response": (responses, b"", said(PIECE)),
    "thoughts of a response": (responses, b"", delta(reasoning_content=PIECE)),
    "arguments of a response": (responses, call(0, "f", "{"), call(0, "", PIECE)),
    "items of a response": (responses, b"", delta(reasoning_content="a") + said("b")),
    "likelihoods of a response": (
        responses,
        b"",
        said("a").replace(b'"text"', b'"logprobs": %b, "text"' % json.dumps(LIKELY).encode()),
    ),
    "a call without a name": (READERS["messages over chat"][0], b"", call(0, "", PIECE)),
    "a call that waits": (READERS["messages over chat"][0], call(0, "f", "{"), call(1, "g", PIECE)),
    "text that waits": (READERS["messages over chat"][0], call(0, "f", "{"), said(PIECE)),
    "thoughts": (
        READERS["chat over messages"][0],
        THINKS,
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": PIECE}),
    ),
    "signatures": (
        READERS["chat over messages"][0],
        THINKS,
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": PIECE}),
    ),
    "empty thoughts": (READERS["chat over messages"][0], b"", THINKS),
}


def _feed_for_ever(reader: StreamReader, more: bytes) -> None:
    for _ in range(200):
        reader.feed(more)


@pytest.mark.parametrize("name", HELD)
def test_text_that_is_told_again_or_waits_has_an_end(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It can't be let go, so a provider that sends more of it than can be charged has failed."""
    monkeypatch.setattr(kept_text, "LEAST_CHARACTERS", 0)
    make, begin, more = HELD[name]
    reader = make()
    reader.feed(begin)
    with pytest.raises(ProviderMisbehaved):
        _feed_for_ever(reader, more)


def test_what_can_be_charged_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of the longest tokens as were asked for, and what is known of each."""
    monkeypatch.setattr(kept_text, "LEAST_CHARACTERS", 0)
    reader = responses()
    for _ in range(LIMITS.max_output):
        token = "x" * (kept_text.LONGEST_TOKEN - 2)
        assert reader.feed(said(token).replace(b'"text"', b'"logprobs": %b, "text"' % json.dumps(LIKELY).encode()))


def test_an_echoed_prompt_takes_nothing_of_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let go whole when the answer is counted, however long it is."""
    monkeypatch.setattr(kept_text, "LEAST_CHARACTERS", 0)
    reader = CompletionStream(model="m", include_usage=True, limits=LIMITS, echoed=(PIECE * 60,))
    for _ in range(60):
        reader.feed(said(PIECE))
    reader.feed(said(" one two"))
    assert reader.delivered_text() == " one two"


@pytest.mark.parametrize("levels", [3, 300])
def test_parts_in_parts_are_read_as_deep_as_any_provider_puts_them(levels: int) -> None:
    """Deeper there is nothing to count, and nothing breaks: such a chunk may have been relayed unread."""
    content: object = "deep"
    for _ in range(levels):
        content = [{"text": content}]
    reader = ChatStream(model="m", include_usage=True)
    for delta in ("a", "b", content):
        choice = {"index": 0, "delta": {"content": delta}, "finish_reason": None}
        reader.feed(
            b"data: " + json.dumps({"model": "m", "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"
        )
    assert reader.delivered_text() == ("abdeep" if levels == 3 else "ab")


async def test_a_stream_beyond_all_measure_is_broken_off(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    """The provider's failure, for which nobody pays."""
    monkeypatch.setattr(opening, "LEAST_STREAM_BYTES", 20_000)
    monkeypatch.setattr(opening, "BYTES_PER_TOKEN", 1)
    provider.handlers = [stream(*[chunk(PIECE)] * 12)]
    async with world.post(world.body(stream=True, max_tokens=5)) as response:
        text = await response.text()
    assert "[DONE]" not in text
    assert '"error"' in text
    event = await world.only_event()
    assert (event.charge_nano_usd, event.ended) == (0, usage_pb2.ENDED_UPSTREAM_FAILED)
    await world.settled()


def test_numbers_of_choices_and_calls_are_bounded() -> None:
    """Each is remembered as long as the stream runs, and none has so many."""
    head = {"id": "c", "model": "m"}
    for choices in (
        [{"index": number, "delta": {"content": "x"}} for number in range(MOST_CHOICES + 1)],
        [{"index": 0, "delta": {"tool_calls": [{"index": n, "id": f"t{n}"} for n in range(MOST_CALLS + 1)]}}],
    ):
        reader = ChatStream(model="m", include_usage=True)
        with pytest.raises(ProviderMisbehaved):
            reader.feed(b"data: " + json.dumps({**head, "choices": choices}).encode() + b"\n\n")


@pytest.mark.parametrize("too_much", [False, True])
async def test_a_sound_may_be_as_long_as_its_text(monkeypatch: pytest.MonkeyPatch, too_much: bool) -> None:
    """Whatever it is in tokens: uncompressed it is larger than any other answer. It has an end all the same."""
    monkeypatch.setattr(opening, "LEAST_STREAM_BYTES", 0)
    spoken = Spoken(wanted="pcm", characters=10, likely_ms=600, most_ms=4000)
    reader = SpeechStream(spoken=spoken, rates=Rates(), as_events=False, may_be_events=False)
    sound = bytes((3 if too_much else 1) * 1_000_000)
    response = Sounding(sound)
    chunks, head = await opening.begin_stream(response, reader, limits=UsageLimits(max_input=1, max_output=1))
    if too_much:
        with pytest.raises(ProviderMisbehaved):
            _ = [each async for each in chunks]
    else:
        found = head + b"".join([reader.feed(each) async for each in chunks])
        assert len(found + reader.closing(tokens=Tokens(), cost=None)) == len(sound)


class Sounding:
    """A provider's answer."""

    def __init__(self, sound: bytes) -> None:
        self._sound = sound

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._sound), 1000):
            yield self._sound[start : start + 1000]

    def close(self) -> None:
        return None
