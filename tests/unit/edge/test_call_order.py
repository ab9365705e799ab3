"""When the arguments of a call are whole, however they come."""

import itertools
import json
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.translate.call_order import Call

VALUES = st.recursive(
    st.text('a"\\{}[]', max_size=8) | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.text('a"\\{}', max_size=5), VALUES, max_size=4), st.sets(st.integers(0, 200), max_size=12))
@settings(max_examples=100, deadline=None)
def test_arguments_are_whole_at_their_end_and_not_before(arguments: dict[str, object], cuts: set[int]) -> None:
    """Brackets, quotes and escapes in texts count for nothing, also when a read ends among them."""
    text = json.dumps(arguments)
    places = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    call = Call(id="t", index=0)
    for start, stop in itertools.pairwise(places):
        call.hear(text[start:stop])
        assert call.has_come is (stop == len(text))


def test_many_pieces_cost_no_more_than_their_signs() -> None:
    """A megabyte in tiny pieces, asked about after each."""
    call, started_s = Call(id="t", index=0), time.process_time()
    call.hear('{"a":[')
    for _ in range(150_000):
        call.hear('{"x":1}')
        assert not call.has_come
    assert time.process_time() - started_s < 5
