"""UUIDv7: version, variant, order and bounds."""

import time

from hypothesis import given
from hypothesis import strategies as st

from chassis.ids import unix_ms, uuid7, uuid7_at


def test_a_new_id_is_a_uuid7_of_now() -> None:
    """Version 7, RFC variant, and the millisecond of its making."""
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= unix_ms(made) <= time.time_ns() // 1_000_000


def test_ids_differ() -> None:
    """74 random bits keep ids of one millisecond apart."""
    assert len({uuid7() for _ in range(10_000)}) == 10_000


@given(st.integers(min_value=0, max_value=2**48 - 2))
def test_the_lowest_id_of_a_millisecond_bounds_it(ms: int) -> None:
    """Partition bounds sort below every id of their millisecond and above every earlier one."""
    assert unix_ms(uuid7_at(ms)) == ms
    assert uuid7_at(ms) < uuid7_at(ms + 1)
    assert uuid7_at(ms).version == 7


def test_an_id_lies_between_the_bounds_of_its_millisecond() -> None:
    """Ids sort by time."""
    made = uuid7()
    assert uuid7_at(unix_ms(made)) <= made < uuid7_at(unix_ms(made) + 1)
