"""The chat stream: the same output wherever the reads fall, and everything captured that money needs."""

import itertools
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import Tokens
from upstream.openai.chat_stream import ChatStream
from upstream.outcome import ProviderMisbehaved
from upstream.usage import UsageLimits

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 3},
    "cost": 0.0000123456,
    "cost_details": {"upstream": 1},
}
SPENT = Tokens(input=7, cached_input=3, output=4)


def chunk(delta: dict[str, object] | None, *, finish: str | None = None, **extra: object) -> dict[str, object]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "gen-1", "object": "chat.completion.chunk", "created": 5, "model": "theirs/secret-7b"}
    return {**head, "choices": choices, **extra}


def wire(*events: dict[str, object], end: str = "\n", done: bool = True, spaced: bool = False) -> bytes:
    separators = None if spaced else (",", ":")
    lines = [f"data: {json.dumps(event, separators=separators)}" for event in events] + ["data: [DONE]"] * done
    return "".join(line + end + end for line in lines).encode()


TRICKY = ['say "model":"theirs/secret-7b"', '"usage":{"prompt_tokens":1}', "data: [DONE]\n\n", "é🎉", "usage", "model"]
PLAIN = [
    chunk({"role": "assistant", "content": ""}),
    *[chunk({"content": text}) for text in ["Hello", " there", *TRICKY]],
    chunk({}, finish="stop"),
    chunk(None, usage=USAGE),
]


def reader(*, include_usage: bool = False, limits: UsageLimits | None = None) -> ChatStream:
    return ChatStream(model="public", include_usage=include_usage, limits=limits)


def events_of(data: bytes) -> list[dict[str, object]]:
    assert data == b"" or data.endswith(b"\n\n")
    return [json.loads(event[6:]) for event in data.split(b"\n\n") if event.startswith(b"data: {")]


def content_of(data: bytes) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for event in events_of(data)
        for choice in event["choices"]  # type: ignore[attr-defined]  # test data
    )


@st.composite
def splits(draw: st.DrawFn) -> list[bytes]:
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    data = wire(*PLAIN, end=end, spaced=draw(st.booleans()))
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(data)])]


@given(splits())
@settings(max_examples=100, deadline=None)
def test_reads_may_end_anywhere(reads: list[bytes]) -> None:
    """However the stream is cut into reads, the client gets the same events and we the same capture."""
    stream = reader()
    out = b"".join(stream.feed(read) for read in reads)
    assert content_of(out) == "".join(["Hello", " there", *TRICKY])
    assert [event["model"] for event in events_of(out)] == ["public"] * (len(PLAIN) - 1)
    assert not any("usage" in event for event in events_of(out))
    assert b"[DONE]\n\ndata" not in out
    captured = stream.finish()
    assert captured.tokens == SPENT
    assert (captured.complete, captured.generation_id, captured.finish_reason) == (True, "gen-1", "stop")
    assert captured.reported_cost_nano_usd == 12346
    assert stream.delivered_text() == "".join(["Hello", " there", *TRICKY])


def test_one_event_per_read_is_the_same_as_all_at_once() -> None:
    """The fast path, event by event or many in a read, gives what parsing gives."""
    whole = reader().feed(wire(*PLAIN))
    single = reader()
    assert b"".join(single.feed(wire(event, done=False)) for event in PLAIN) == whole


def test_usage_chunk_comes_last_with_our_cost() -> None:
    """The closing bytes carry the provider's counts, our price for them and no price of the provider's."""
    stream = reader(include_usage=True)
    stream.feed(wire(*PLAIN))
    closing = stream.closing(tokens=SPENT, cost="0.0000098")
    (event,) = events_of(closing)
    assert event["choices"] == []
    assert (event["id"], event["model"]) == ("gen-1", "public")
    assert b'"cost":0.0000098' in closing
    assert event["usage"].keys() == (USAGE.keys() - {"cost_details"})  # type: ignore[attr-defined]  # test data
    assert closing.endswith(b"data: [DONE]\n\n")


def test_counted_usage_is_shown_when_it_is_what_was_charged() -> None:
    """Where the provider said nothing, the closing shows the counts that were charged."""
    stream = reader(include_usage=True)
    stream.feed(wire(*PLAIN[:-1]))
    (event,) = events_of(stream.closing(tokens=Tokens(input=5, output=2), cost=None))
    assert event["usage"]["total_tokens"] == 7  # type: ignore[index]  # test data
    assert stream.finish().tokens is None


def test_without_asking_no_usage_chunk() -> None:
    """A client that did not ask gets the end mark alone."""
    assert reader().closing(tokens=SPENT, cost="1") == b"data: [DONE]\n\n"


def test_a_cut_stream_ends_as_length() -> None:
    """At the total time the stream is finished for the provider."""
    stream = reader()
    stream.feed(wire(*PLAIN[:3], done=False))
    closing = stream.closing(tokens=SPENT, cost=None, cut=True)
    assert events_of(closing)[0]["choices"][0]["finish_reason"] == "length"  # type: ignore[index]  # test data


def test_usage_beside_the_finish() -> None:
    """A provider that puts its usage into the last content event loses neither."""
    stream = reader()
    out = stream.feed(wire(*PLAIN[:3], chunk({"content": "!"}, finish="length", usage=USAGE)))
    assert content_of(out).endswith("!")
    assert "usage" not in events_of(out)[-1]
    assert stream.finish().tokens == SPENT


def test_null_usage_in_every_event_is_no_usage() -> None:
    """`usage: null` says nothing and hides nothing."""
    stream = reader()
    stream.feed(wire(*[{**event, "usage": event.get("usage")} for event in PLAIN]))
    assert stream.finish().tokens == SPENT
    silent = reader()
    silent.feed(wire(*[{**event, "usage": None} for event in PLAIN[:-1]]))
    assert silent.finish().tokens is None
    assert not silent.finish().implausible


def test_running_usage_is_final_only_at_the_end() -> None:
    """A stream that breaks off has usage so far, but none to charge by."""
    stream = reader()
    stream.feed(wire(chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}), done=False))
    captured = stream.finish()
    assert captured.tokens is None
    assert captured.so_far == Tokens(input=3, output=1)
    assert not captured.complete


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": "10", "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        {"prompt_tokens": 101, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 51},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
        {"prompt_tokens": True, "completion_tokens": 1},
        [1, 2],
        "many",
    ],
)
def test_usage_that_cannot_be_is_flagged(usage: object) -> None:
    """Negative, fractional, huge and out-of-bounds counts are never charged."""
    stream = reader(limits=UsageLimits(max_input=100, max_output=50))
    stream.feed(wire(*PLAIN[:-1], chunk(None, usage=usage)))
    captured = stream.finish()
    assert captured.tokens is None
    assert captured.implausible
    assert captured.complete


def test_an_explicit_zero_is_a_zero() -> None:
    """A usage block that says nothing was used is believed."""
    stream = reader()
    stream.feed(wire(*PLAIN[:-1], chunk(None, usage={"prompt_tokens": 0, "completion_tokens": 0})))
    assert stream.finish().tokens == Tokens()


def test_error_event_ends_the_stream_and_is_not_relayed() -> None:
    """A provider's error inside its stream is captured, with its code; edge words it for the client."""
    stream = reader()
    error = {"error": {"message": "key sk-abcdefgh12345678 is over quota", "code": 429}}
    out = stream.feed(wire(*PLAIN[:3], error, *PLAIN[3:]))
    assert content_of(out) == "Hello there"
    captured = stream.finish()
    assert stream.ended
    assert not captured.complete
    assert captured.error_status == 429
    assert captured.error == "key [redacted] is over quota"


@pytest.mark.parametrize(
    "line", [b"data: {not json}\n\n", b"data: 7\n\n", b'data: {"choices":5}\n\n', b"data: \xff\xfe\n\n"]
)
def test_hostile_lines_are_refused(line: bytes) -> None:
    """What is no chat chunk raises, whatever it is, and what was captured before stays readable."""
    stream = reader()
    stream.feed(wire(*PLAIN[:3], done=False))
    with pytest.raises(ProviderMisbehaved):
        stream.feed(b"x: y\n\n" + line)
    assert stream.delivered_text() == "Hello there"


def test_an_endless_event_is_refused() -> None:
    """Memory for one event is bounded."""
    stream = reader()
    for _ in range(8):
        stream.feed(b"data: " + b"x" * 1_000_000)
    with pytest.raises(ProviderMisbehaved):
        stream.feed(b"x" * 1_000_000)


def test_comments_keep_the_connection_alive_without_their_words() -> None:
    """A provider's keep-alive is relayed empty: it names the provider."""
    assert reader().feed(b": SOMEPROVIDER PROCESSING\n\n") == b":\n\n"


def test_an_end_mark_without_its_blank_line_is_an_end() -> None:
    """Some providers close right after the mark."""
    stream = reader()
    stream.feed(wire(*PLAIN[:3], done=False) + b"data: [DONE]")
    assert stream.finish().complete


def test_what_follows_the_end_is_ignored() -> None:
    """No content can be smuggled in after the end mark."""
    stream = reader()
    stream.feed(wire(*PLAIN))
    assert stream.feed(wire(*PLAIN)) == b""
    assert stream.feed(wire(PLAIN[1], done=False)) == b""


def test_nothing_counts_as_delivered_once_the_client_is_gone() -> None:
    """A drained stream is still read for its usage, but what nobody got is not counted."""
    stream = reader()
    stream.feed(wire(*PLAIN[:2], done=False))
    stream.stop_delivery()
    stream.feed(wire(*PLAIN[2:]))
    assert stream.delivered_text() == "Hello"
    assert stream.finish().tokens == SPENT


def test_delivered_text_of_a_long_stream() -> None:
    """Kept as text beyond a bound, it is still all there, reasoning and tool arguments too."""
    stream = reader()
    stream.feed(wire(chunk({"content": "x"}), done=False))
    for _ in range(3000):
        stream.feed(wire(chunk({"content": "word "}), done=False))
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}
    stream.feed(wire(chunk({"reasoning_content": "hm", "tool_calls": [call]}), done=False))
    assert stream.delivered_text() == "x" + "word " * 3000 + "hm" + "f" + '{"a":1}'


def test_first_content_is_noticed() -> None:
    """A role alone is no content."""
    stream = reader()
    stream.feed(wire(PLAIN[0], done=False))
    assert not stream.has_content
    stream.feed(wire(PLAIN[1], done=False))
    assert stream.has_content


def test_the_text_of_each_choice_is_counted_in_one_piece() -> None:
    """Choices that take turns on the wire are not torn into more tokens than they are."""
    stream = reader()
    for piece in ("unbeliev", "able"):
        for index in (0, 1):
            choice = {"index": index, "delta": {"content": piece}, "finish_reason": None}
            stream.feed(wire({**chunk(None), "choices": [choice]}, done=False))
    assert stream.delivered_text() == "unbelievable" * 2


def test_several_choices_all_have_to_finish() -> None:
    """With n > 1 a stream without an end mark is complete when each choice is."""
    stream = reader()
    both = {**chunk(None), "choices": [{"index": i, "delta": {"content": "a"}, "finish_reason": None} for i in (0, 1)]}
    stream.feed(wire(both, chunk({}, finish="stop"), done=False))
    assert not stream.finish().complete
    last = {**chunk(None), "choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}
    stream.feed(wire(last, done=False))
    assert stream.finish().complete


def test_a_model_that_changes_its_name_does_not_leak() -> None:
    """A chunk with another model name than the first is still renamed."""
    stream = reader()
    stream.feed(wire(*PLAIN[:3], done=False))
    out = stream.feed(wire({**chunk({"content": "a"}), "model": "theirs/other"}, chunk({"content": "b"}), done=False))
    assert [event["model"] for event in events_of(out)] == ["public", "public"]
    assert b"theirs" not in out


def test_unknown_fields_are_kept() -> None:
    """A provider's extra fields reach the client as they are."""
    out = reader().feed(wire(chunk({"content": "a"}, novel={"x": [1.50]}), done=False))
    assert msgspec.json.decode(out[6:-2])["novel"] == {"x": [1.5]}
