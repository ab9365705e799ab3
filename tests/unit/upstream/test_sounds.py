"""How long a sound is: its container's word, within what its size makes possible."""

import os

import pytest

from tests.unit.edge.sound import wav
from upstream.sounds import MOST_READS, duration_of


def test_a_container_is_believed():
    """Ten seconds are ten seconds, and what is held has room for rounding."""
    found = duration_of(wav(10))
    assert (found.likely_ms, found.held_ms) == (10_000, 11_500)
    assert found.most_ms > 10 * found.likely_ms


def test_what_cannot_be_read_goes_by_its_size():
    """As speech usually is, and held as speech may well be."""
    found = duration_of(b"\x1aE\xdf\xa3" + os.urandom(40_000))
    assert (found.likely_ms, found.held_ms, found.most_ms) == (10_001, 40_004, 80_008)


def test_a_lossy_sound_is_as_long_as_its_bytes_make_it():
    """A header that claims a second of a megabyte would have it heard for nothing."""
    frame = b"\xff\xfb\x90\x00" + b"Xing\x00\x00\x00\x01\x00\x00\x00\x26" + bytes(401)
    found = duration_of(frame + os.urandom(1_000_000))
    assert found.likely_ms >= 1_000_000 / 64


@pytest.mark.parametrize("data", [b"", b"x", b"RIFF", b"OggS" + bytes(100), b"\xff\xfb\x90\x00", b"fLaC\x00"])
def test_scraps_are_short_and_never_nothing(data: bytes):
    """Whatever they are."""
    assert duration_of(data).likely_ms >= 1


def test_junk_that_looks_like_a_sound_is_not_searched_to_its_end(monkeypatch: pytest.MonkeyPatch):
    """The number of reads is bounded, whatever the size."""
    monkeypatch.setattr("upstream.sounds.MOST_READS", 10)
    assert MOST_READS > 10
    found = duration_of(b"\xff\xfb\x90\x00" + os.urandom(100_000))
    assert found.likely_ms == 25_001
