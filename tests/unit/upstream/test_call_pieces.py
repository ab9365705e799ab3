"""Pieces of calls find their call, however a provider numbers, names and calls them."""

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.upstream.odd_calls import MIXABLE, ODD, pieces_of
from upstream.openai.call_pieces import Arguments, CallPieces

VALUES = st.recursive(
    st.text('a"\\{}[]', max_size=8) | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(st.text('a"\\{}', max_size=5), VALUES, max_size=4)


@given(OBJECTS, st.sets(st.integers(0, 200), max_size=12))
@settings(max_examples=100, deadline=None)
def test_arguments_are_whole_at_their_end_and_not_before(arguments: dict[str, object], cuts: set[int]) -> None:
    """Brackets, quotes and escapes in texts count for nothing, also when a read ends among them."""
    text = json.dumps(arguments)
    places = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    heard = Arguments()
    for start, stop in itertools.pairwise(places):
        heard.hear(text[start:stop])
        assert heard.are_whole is (stop == len(text))


def test_many_pieces_cost_no_more_than_their_signs() -> None:
    """A megabyte in tiny pieces, asked about after each."""
    heard, started_s = Arguments(), time.process_time()
    heard.hear('{"a":[')
    for _ in range(150_000):
        heard.hear('{"x":1}')
        assert not heard.are_whole
    assert time.process_time() - started_s < 5


@pytest.mark.parametrize("text", ["\\" * 300_000 + "x", '\\"' * 300_000, '","' * 300_000, "{" * 300_000])
def test_a_large_piece_costs_no_more_than_its_signs(text: str) -> None:
    """Whatever a model writes: everybody's streams wait meanwhile."""
    heard, started_s = Arguments(), time.process_time()
    heard.hear('{"a":"' + text)
    assert time.process_time() - started_s < 2
    assert not heard.are_whole


def put_together(pieces: list[dict[str, Any]]) -> list[tuple[str, str]]:
    read, found = CallPieces(), []
    for piece in pieces:
        taken = read.take(piece)
        if taken.begins:
            found.append(["", ""])
        found[taken.call.number][0] += taken.name
        found[taken.call.number][1] += taken.arguments
    return [(name, arguments) for name, arguments in found]


CALLS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["find", "open_file", "close"]), "input": OBJECTS}),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("way", ODD)
@example(calls=[{"name": "find", "input": {}}] * 3, cut=1)
@given(calls=CALLS, cut=st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_calls_stay_apart_in_every_odd_way(way: str, calls: list[dict[str, Any]], cut: int) -> None:
    """One after the other: the same tool twice, too, with the same arguments."""
    pieces = list(itertools.chain(*ODD[way](pieces_of(calls, cut=cut))))
    assert put_together(pieces) == [(call["name"], json.dumps(call["input"])) for call in calls]


@pytest.mark.parametrize("way", MIXABLE)
@given(calls=CALLS, cut=st.integers(1, 9), order=st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_mixed_pieces_find_their_call(way: str, calls: list[dict[str, Any]], cut: int, order: Any) -> None:
    """Where a number or an id tells which piece is whose."""
    left = [list(call) for call in ODD[way](pieces_of(calls, cut=cut))]
    heads = [call.pop(0) for call in left]
    if way == "name in pieces":
        heads += [call.pop(0) for call in left]
    pieces = list(heads)
    while any(left):
        pieces.append(order.choice([call for call in left if call]).pop(0))
    expected = [(call["name"], json.dumps(call["input"])) for call in calls]
    assert put_together(pieces) == expected


def test_a_name_after_the_id_is_of_its_call() -> None:
    """Some tell of the id first, some of the arguments before the name."""
    for before in ({"index": 0, "id": "x"}, {"index": 0, "id": "x", "function": {"arguments": '{"a"'}}):
        rest = {"index": 0, "function": {"name": "f", "arguments": ":1}"}}
        assert [name for name, _ in put_together([before, rest])] == ["f"]


def test_another_name_amid_arguments_is_another_call() -> None:
    """The first was cut: what comes is no part of it."""
    first = {"index": 0, "function": {"name": "f", "arguments": '{"a":'}}
    assert put_together([first, {"index": 0, "function": {"name": "g", "arguments": "{}"}}]) == [
        ("f", '{"a":'),
        ("g", "{}"),
    ]


def test_arguments_may_be_an_object_itself() -> None:
    """Some send no text."""
    assert put_together([{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}]) == [("f", '{"a":1}')]
