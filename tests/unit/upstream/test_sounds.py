"""How long a sound is: its container's word, within what its size makes possible."""

import os
import struct

import pytest

from pricing.tokens import MAX_COUNT
from tests.unit.edge.sound import wav
from upstream.sounds import LEAST_BILLED_MS, MOST_READS, duration_of


def test_a_container_is_believed():
    """Ten seconds are ten seconds, and what is held has room for rounding."""
    found = duration_of(wav(10))
    assert (found.likely_ms, found.held_ms) == (10_000, 11_500)
    assert found.most_ms == LEAST_BILLED_MS


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


def chunk(kind: int, body: bytes) -> bytes:
    """An EBML element with a size of eight bytes."""
    return bytes([kind, 1]) + len(body).to_bytes(7, "big") + body


def webm(base_ms: int, block_ms: int) -> bytes:
    """The head and the last cluster of a recording, as browsers make it: no length, an unknown size."""
    block = chunk(0xA3, b"\x81" + struct.pack(">h", block_ms) + b"\x80" + bytes(100))
    head = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"\x2a\xd7\xb1\x83\x0f\x42\x40"
    return head + bytes(200) + b"\x1f\x43\xb6\x75\x01" + b"\xff" * 7 + chunk(0xE7, base_ms.to_bytes(4, "big")) + block


def ogg(head: bytes, samples: int) -> bytes:
    """The first and the last page of an Ogg file."""
    first = b"OggS\0\2" + bytes(20) + bytes([1, len(head)]) + head
    return first + bytes(8000) + b"OggS\0\4" + struct.pack("<q", samples) + bytes(12) + b"\1\1x"


OPUS = b"OpusHead\x01\x01" + struct.pack("<H", 312) + bytes(7)
VORBIS = b"\x01vorbis" + bytes(4) + b"\x01" + struct.pack("<I", 44_100) + bytes(14)
FLAC = b"\x7fFLAC" + bytes(22) + (16_000 << 4).to_bytes(3, "big") + bytes(21)


@pytest.mark.parametrize(
    ("data", "ms"),
    [
        (webm(5000, 1230), 6230),
        (ogg(OPUS, 48_000 * 5 + 312), 5000),
        (ogg(VORBIS, 44_100 * 5), 5000),
        (ogg(FLAC, 16_000 * 5), 5000),
    ],
    ids=["webm", "opus", "vorbis", "flac"],
)
def test_a_length_is_read_where_it_stands(data: bytes, ms: int):
    """Browsers' recordings have none in their heads, and an Ogg file has it at its end."""
    data += bytes(ms)  # so that its size allows as much
    assert duration_of(data).likely_ms == ms


@pytest.mark.parametrize("said", [0, 0xFFFFFFFF, 1], ids=["none", "the most", "next to nothing"])
def test_a_wav_is_as_long_as_its_samples(said: int):
    """Who pipes one does not know its length when its head is written, and who lies has it held all the same."""
    data = bytearray(wav(10))
    struct.pack_into("<I", data, 40, said)
    found = duration_of(bytes(data))
    assert found.held_ms == 11_500
    assert found.likely_ms == (1 if said == 1 else 10_000)


def test_a_wav_of_something_else_is_not_believed_to_be_samples():
    """Speech at 8 kbit/s that calls itself so many bytes a second would be over in no time."""
    data = bytearray(wav(100))
    struct.pack_into("<HHIIHH", data, 20, 0x55, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFF, 64)
    assert duration_of(bytes(data)).held_ms >= len(data) / 8


def test_silence_takes_no_bytes_where_nothing_is_lost():
    """An hour of it is an hour, and is held as one."""
    data = b"fLaC\x80\x00\x00\x22" + bytes(10) + (16_000 << 44 | 3600 * 16_000).to_bytes(8, "big") + bytes(100_000)
    found = duration_of(data)
    assert (found.likely_ms, found.held_ms) == (3_600_000, 3_781_000)
    assert found.most_ms >= found.held_ms


def test_a_head_that_lies_does_not_make_a_large_file_cheap():
    """What is held is at least what speech of 64 kbit/s would be, where the codec may lose something."""
    for head in (
        ogg(OPUS, 48_000),
        b"\xff\xfb\x90\x00" + b"Xing\x00\x00\x00\x03\x00\x00\x00\x26\x00\x0f\x00\x00" + bytes(401),
    ):
        data = head[:-31] + bytes(8_000_000) + head[-31:]
        assert duration_of(data).held_ms >= 1_000_000


@pytest.mark.parametrize("rate", [1, 16_000, (1 << 20) - 1])
def test_a_length_beyond_all_is_none(rate: int):
    """Nothing is worked out with it."""
    data = b"fLaC\x80\x00\x00\x22" + bytes(10) + (rate << 44 | (1 << 36) - 1).to_bytes(8, "big") + bytes(1000)
    assert duration_of(data).held_ms < MAX_COUNT
    assert duration_of(ogg(FLAC, (1 << 63) - 1)).held_ms < MAX_COUNT
    assert duration_of(webm(0xFFFFFFFF, 32_000)).held_ms < MAX_COUNT


def test_scraps_of_every_kind_end():
    """Whatever is cut off where."""
    for data in (webm(5000, 1230), ogg(OPUS, 5000), ogg(FLAC, 5000), wav(1)[:80]):
        for cut in range(len(data)):
            if cut < 400 or cut > len(data) - 60:
                assert duration_of(data[:cut]).likely_ms >= 1
