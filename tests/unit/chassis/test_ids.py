"""UUIDv7: version, variant, order and bounds; and UUIDs that callers send."""

import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Code, TollbridgeError
from chassis.ids import canonical, now_floor, text_of, unix_ms, uuid7, uuid7_at, uuid_of


def test_a_new_id_is_a_uuid7_of_now() -> None:
    """Version 7, RFC variant, and the millisecond of its making."""
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= unix_ms(made) <= time.time_ns() // 1_000_000


def test_ids_differ() -> None:
    """74 random bits keep ids of one millisecond apart."""
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_ids_do_not_go_back_when_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement's moment is above all ids that were made before it, and below none that is made after it."""
    floor, made = now_floor(), uuid7()
    set_back_ns = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: set_back_ns)
    assert floor <= now_floor()
    assert unix_ms(uuid7()) >= unix_ms(made)


@given(st.uuids())
def test_the_fast_text_of_an_id_is_its_text(made: UUID) -> None:
    """Ledger rows, seals and messages are full of them: they must not depend on how one is written."""
    assert text_of(made) == str(made)


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


@pytest.mark.parametrize("text", ["", "me", "0192aaaa-0000-7000-8000-00000000000", "\0"])
def test_what_is_no_uuid_is_refused_with_the_name_of_its_field(text: str) -> None:
    """Every service refuses it alike."""
    with pytest.raises(TollbridgeError) as caught:
        uuid_of(text, "key_id")
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.details == {"param": "key_id"}


def test_a_uuid_is_written_in_one_way() -> None:
    """So that it can be compared as text."""
    assert canonical("0192AAAA00007000800000000000000F", "id") == "0192aaaa-0000-7000-8000-00000000000f"
