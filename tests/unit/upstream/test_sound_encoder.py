"""Samples into files, and how long files are by their bytes."""

import io
import math
import struct

import numpy
import pytest
import soundfile

from tests.fakes.listener import FORMATS_HERE, heard
from upstream import sound_encoder
from upstream.outcome import ProviderMisbehaved
from upstream.sound_encoder import FORMATS, RATE, FileEncoder, FormatMissing, SoundEncoder, encoded, plain_samples
from upstream.sound_meters import kind_of, meter_of

SECONDS = 1.5
SAMPLES = b"".join(struct.pack("<h", int(8000 * math.sin(at * 0.06))) for at in range(int(RATE * SECONDS)))


def streamed(wanted: str, *, rate: int = RATE) -> bytes:
    """The file as it is made piece by piece, of pieces that cut samples in two."""
    encoder = SoundEncoder(wanted, rate=rate)
    parts = [encoder.feed(SAMPLES[start : start + 9601]) for start in range(0, len(SAMPLES), 9601)]
    if wanted != "aac":  # whose program takes its own time
        assert sum(map(bool, parts[:3])), "nothing came before the end"
    return b"".join([*parts, encoder.end()])


def seconds(sound: bytes, wanted: str) -> float:
    """How long a player plays it."""
    if wanted == "pcm":
        return len(sound) / 2 / RATE
    container, played = heard(sound)
    assert container == wanted
    return played


@pytest.mark.parametrize("wanted", FORMATS_HERE)
def test_each_format_plays_as_long_as_its_samples(wanted: str):
    """Made at once or piece by piece, and from samples of another rate."""
    assert seconds(encoded(SAMPLES, wanted), wanted) == pytest.approx(SECONDS, abs=0.08)
    assert seconds(streamed(wanted), wanted) == pytest.approx(SECONDS, abs=0.08)
    slower = SECONDS * RATE / 22_050
    assert seconds(streamed(wanted, rate=22_050), wanted) == pytest.approx(slower, abs=0.08)


@pytest.mark.parametrize("wanted", FORMATS_HERE)
@pytest.mark.parametrize("step", [7, 1000, 1 << 20])
def test_a_meter_tells_the_length_however_the_bytes_come(*, wanted: str, step: int):
    """Of files that know how long they are, and of those that don't."""
    for sound in (encoded(SAMPLES, wanted), streamed(wanted)):
        meter = meter_of(wanted)
        for start in range(0, len(sound), step):
            meter.feed(sound[start : start + step])
        assert meter.ms == pytest.approx(SECONDS * 1000, abs=80)
        assert kind_of(sound[:16]) == (None if wanted == "pcm" else wanted)


@pytest.mark.parametrize("wanted", FORMATS_HERE)
def test_a_meter_reads_what_begins_like_a_sound_and_is_none(wanted: str):
    """And counts nothing, or what could be one."""
    head = encoded(SAMPLES, wanted)[:60]
    for junk in (b"", b"\xff" * 300, bytes(300), head + b"\xff\xf8\xff\xfb" * 100, head[:20]):
        meter = meter_of(wanted)
        meter.feed(junk)
        assert 0 <= meter.ms < 400_000


def test_an_mp3_that_is_streamed_begins_with_sound():
    """And not with the place of an index, which nobody can fill in any more; all else is the same."""
    assert streamed("mp3") == encoded(SAMPLES, "mp3")[192:]


@pytest.mark.parametrize("wanted", [each for each in FORMATS if each != "aac"])
def test_who_makes_a_file_is_told_how_large_it_is_so_far(wanted: str):
    """Before its end, but for what the encoder still has in hand."""
    encoder = FileEncoder(wanted)
    sizes = [encoder.feed(SAMPLES) for _ in range(3)]
    assert 0 < sizes[0] < sizes[1] < sizes[2] <= len(encoder.end())
    encoder.close()


@pytest.mark.parametrize("wanted", FORMATS)
def test_only_aac_takes_a_program(*, wanted: str, monkeypatch: pytest.MonkeyPatch):
    """Where ffmpeg is not, it says why."""
    monkeypatch.setattr(sound_encoder, "ffmpeg_path", lambda: None)
    if wanted != "aac":
        assert encoded(SAMPLES, wanted)
        return
    with pytest.raises(FormatMissing, match="ffmpeg"):
        encoded(SAMPLES, wanted)


def file_of(kind: str, *, rate: int, channels: int = 1) -> bytes:
    """A second of a tone."""
    tone = 0.3 * numpy.sin(numpy.arange(rate) * 2 * math.pi * 440 / rate)
    file = io.BytesIO()
    soundfile.write(file, numpy.stack([tone] * channels, axis=1), rate, format=kind)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "rate", "channels"), [("WAV", 44_100, 2), ("FLAC", 48_000, 1), ("OGG", 8000, 1)])
def test_samples_come_out_of_files_of_other_rates(*, kind: str, rate: int, channels: int):
    """As long as they were, at the same pitch."""
    samples = numpy.frombuffer(plain_samples(file_of(kind, rate=rate, channels=channels)), dtype="<i2")
    assert len(samples) == pytest.approx(RATE, abs=RATE // 100)
    spectrum = numpy.abs(numpy.fft.rfft(samples[:RATE]))
    assert spectrum.argmax() * RATE / min(RATE, len(samples)) == pytest.approx(440, abs=5)


@pytest.mark.parametrize("wanted", ["wav", "flac"])
def test_samples_come_out_of_files_that_were_streamed(wanted: str):
    """Whose heads don't say how many there are."""
    assert plain_samples(streamed(wanted)) == SAMPLES


@pytest.mark.parametrize("sound", [b"RIFF", b"OggS" + bytes(100), b"fLaC" + b"x" * 50, file_of("WAV", rate=400)])
def test_what_is_no_sound_is_the_provider_s_fault(sound: bytes):
    """Nor is one of a rate that nobody speaks at."""
    with pytest.raises(ProviderMisbehaved):
        plain_samples(sound)
