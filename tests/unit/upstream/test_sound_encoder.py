"""Samples into files, and how long files are by their bytes."""

import io
import math
import struct

import av
import pytest

from upstream.sound_encoder import FORMATS, RATE, SoundEncoder, encoded
from upstream.sound_meters import kind_of, meter_of

SECONDS = 1.5
SAMPLES = b"".join(struct.pack("<h", int(8000 * math.sin(at * 0.06))) for at in range(int(RATE * SECONDS)))


def streamed(wanted: str, *, rate: int = RATE) -> bytes:
    """The file as it is made piece by piece, of pieces that cut samples in two."""
    encoder = SoundEncoder(wanted, rate=rate)
    parts = [encoder.feed(SAMPLES[start : start + 9601]) for start in range(0, len(SAMPLES), 9601)]
    assert sum(map(bool, parts[:3])), "nothing came before the end"
    return b"".join([*parts, encoder.end()])


def seconds(sound: bytes, wanted: str) -> float:
    """How long a player plays it."""
    if wanted == "pcm":
        return len(sound) / 2 / RATE
    with av.open(io.BytesIO(sound)) as file:
        return sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate


@pytest.mark.parametrize("wanted", FORMATS)
def test_each_format_plays_as_long_as_its_samples(wanted: str):
    """Made at once or piece by piece, and from samples of another rate."""
    assert seconds(encoded(SAMPLES, wanted), wanted) == pytest.approx(SECONDS, abs=0.08)
    assert seconds(streamed(wanted), wanted) == pytest.approx(SECONDS, abs=0.08)
    slower = SECONDS * RATE / 22_050
    assert seconds(streamed(wanted, rate=22_050), wanted) == pytest.approx(slower, abs=0.08)


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("step", [7, 1000, 1 << 20])
def test_a_meter_tells_the_length_however_the_bytes_come(*, wanted: str, step: int):
    """Of files that know how long they are, and of those that don't."""
    for sound in (encoded(SAMPLES, wanted), streamed(wanted)):
        meter = meter_of(wanted)
        for start in range(0, len(sound), step):
            meter.feed(sound[start : start + step])
        assert meter.ms == pytest.approx(SECONDS * 1000, abs=80)
        assert kind_of(sound[:16]) == (None if wanted == "pcm" else wanted)


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_meter_reads_what_begins_like_a_sound_and_is_none(wanted: str):
    """And counts nothing, or what could be one."""
    head = encoded(SAMPLES, wanted)[:60]
    for junk in (b"", b"\xff" * 300, bytes(300), head + b"\xff\xf8\xff\xfb" * 100, head[:20]):
        meter = meter_of(wanted)
        meter.feed(junk)
        assert 0 <= meter.ms < 400_000
