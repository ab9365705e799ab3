"""Samples of other rates and speeds: as long as they should be, and at their pitch."""

import math

import numpy
import pytest

from upstream.sound_samples import Changed

WANTED = 24_000
PITCH_HZ = 440
SECONDS = 1.0


def changed(*, rate: int, tempo: float = 1.0, step: int) -> numpy.ndarray:
    """A tone of that rate, changed piece by piece."""
    values = 8000 * numpy.sin(numpy.arange(int(rate * SECONDS)) * 2 * math.pi * PITCH_HZ / rate)
    samples = values.astype("<i2").tobytes()
    changes = Changed(rate=rate, wanted=WANTED, tempo=tempo)
    parts = [changes.feed(samples[at : at + step]) for at in range(0, len(samples), step)]
    return numpy.frombuffer(b"".join([*parts, changes.end()]), dtype="<i2").astype(float)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("step", [202, 1 << 20])
def test_a_tone_of_another_rate_is_the_same_tone(*, rate: int, step: int):
    """To a few thousandths, and however it comes."""
    values = changed(rate=rate, step=step)
    assert len(values) == WANTED * SECONDS
    ideal = 8000 * numpy.sin(numpy.arange(len(values)) * 2 * math.pi * PITCH_HZ / WANTED)
    assert numpy.abs(values - ideal)[200:-200].max() < 30


@pytest.mark.parametrize("tempo", [0.25, 0.7, 1.5, 4.0])
@pytest.mark.parametrize("step", [202, 1 << 20])
def test_a_tone_at_another_speed_keeps_its_pitch(*, tempo: float, step: int):
    """And is neither louder nor weaker."""
    values = changed(rate=22_050, tempo=tempo, step=step)
    assert len(values) == pytest.approx(WANTED * SECONDS / tempo, abs=3)
    middle = values[1000:-1000]
    spectrum = numpy.abs(numpy.fft.rfft(middle * numpy.hanning(len(middle))))
    assert spectrum.argmax() * WANTED / len(middle) == pytest.approx(PITCH_HZ, abs=10)
    assert numpy.abs(middle).max() == pytest.approx(8000, rel=0.05)


def test_nothing_becomes_nothing():
    """At any rate and speed."""
    assert Changed(rate=22_050, wanted=WANTED, tempo=2).end() == b""
