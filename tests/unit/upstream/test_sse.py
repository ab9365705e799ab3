"""The splitter: the same events wherever the reads fall and whatever ends the lines, within its bounds."""

import itertools
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upstream.outcome import ProviderMisbehaved
from upstream.sse import EventSplitter, data_of
from upstream.whole_signs import with_whole_signs

LINES = st.sampled_from([b"data: x", b"data:y", b": c", b"event: e", b"data: \xc3\xa9", b"data:", b"id: 1"])
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=8)


@given(EVENTS, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(0, 400), max_size=20), st.booleans())
@settings(max_examples=100, deadline=None)
def test_same_events_for_any_reads(events: list[list[bytes]], end: bytes, cuts: list[int], doubled: bool) -> None:
    """Cuts anywhere, LF, CRLF or CR, one blank line or two: the events are the lines."""
    blank = end * 2 if doubled else end
    data = b"".join(end.join(lines) + end + blank for lines in events) + b"data: rest"
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = EventSplitter()
    got = [event for start, stop in itertools.pairwise(places) for event in splitter.feed(data[start:stop])]
    assert got == [b"\n".join(lines) for lines in events]
    assert splitter.rest == b"data: rest"
    assert not splitter.between_events


def test_bounds() -> None:
    """An event of the bound passes, a larger one does not, in one read or in many."""
    assert EventSplitter(max_event_bytes=10).feed(b"x" * 10 + b"\n\n") == [b"x" * 10]
    for reads in ([b"x" * 11 + b"\n\n"], [b"x" * 11], [b"x"] * 11, [b"x" * 6, b"x" * 6 + b"\n\n"]):
        splitter = EventSplitter(max_event_bytes=10)
        with pytest.raises(ProviderMisbehaved):
            [splitter.feed(read) for read in reads]


def test_a_large_event_in_small_reads_is_not_slow() -> None:
    """Byte by byte, a hostile event of 200 KB costs no more than linear time."""
    splitter = EventSplitter()
    started_s = time.process_time()
    for _ in range(200_000):
        splitter.feed(b"x")
    assert time.process_time() - started_s < 3


def test_data_lines_are_joined() -> None:
    """Several data lines are one datum, one space after the colon is not part of it, comments have none."""
    assert data_of(b"event: a\ndata: 1\ndata:  2\ndata:3") == b"1  2 3"
    assert data_of(b": comment") is None
    assert data_of(b"data: 1") == b"1"


@given(st.lists(st.integers(1, 200), max_size=10))
@settings(max_examples=50, deadline=None)
def test_a_byte_order_mark_and_bytes_that_are_no_utf_8(cuts: list[int]) -> None:
    """The mark at the beginning is no part of the first event, and what is no sign becomes the sign for that."""
    data = b"\xef\xbb\xbfdata: \xef\xbb\xbfa\n\ndata: \xff\xc3\xa9\xc3\n\n: \xe2\x82\n\n"
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = EventSplitter()
    got = [event for start, stop in itertools.pairwise(places) for event in splitter.feed(data[start:stop])]
    assert [event.decode() for event in got] == ["data: \ufeffa", "data: \ufffdé\ufffd", ": \ufffd"]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (rb'"\ud83d"', "\ufffd"),
        (rb'"\uDE00x"', "\ufffdx"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud83d \\\ud83d"', "\\ud83d \\\ufffd"),
        (rb'"\ud7ff\u00e9\n"', "\ud7ffé\n"),
    ],
)
def test_half_a_sign_is_the_sign_for_none(said: bytes, read: str) -> None:
    """Providers cut texts between the halves of a surrogate pair; a reader would refuse the whole event."""
    assert msgspec.json.decode(with_whole_signs(said)) == read
    assert msgspec.json.decode(data_of(b"data: " + said) or b"") == read
