"""A number that can't be read is refused before anything reads it, wherever it stands; all others pass."""

import contextlib

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chassis.errors import TollbridgeError
from services.edge.bodies.request_body import decode_body

UNREAD = msgspec.json.Decoder(dict[str, msgspec.Raw])
DIGITS = st.text("0123456789", min_size=1, max_size=4)


@given(
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "1", "1" + "0" * 299, "9" * 308, "9" * 310]),
    st.one_of(st.just(""), DIGITS.map(lambda digits: f".{digits}")),
    st.one_of(
        st.just(""), st.builds("".join, st.tuples(st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), DIGITS))
    ),
)
@settings(max_examples=300, deadline=None)
@example("", "1", "", "e00309")
@example("", "1", ".5", "E+309")
@example("", "1" + "0" * 309, ".0", "")
def test_a_number_is_refused_only_where_it_cannot_be_read(sign: str, whole: str, part: str, exponent: str) -> None:
    """The look at the bytes misses none, and is no judge of its own."""
    body = f'{{"a": "1e999", "b": [{sign}{whole}{part}{exponent}]}}'.encode()
    readable = False
    with contextlib.suppress(msgspec.DecodeError):
        msgspec.json.decode(body)
        readable = True
    passed = False
    with contextlib.suppress(TollbridgeError):
        decode_body(body, UNREAD)
        passed = True
    assert passed == readable
