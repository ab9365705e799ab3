"""Listens to sounds in tests: what a file is, and how long a player plays it, by decoding all of it."""

import io

import pytest
import soundfile

from upstream.aac import ffmpeg_path
from upstream.sound_encoder import FORMATS
from upstream.sound_meters import kind_of, meter_of

CONTAINERS = {"MP3": "mp3", "OGG": "opus", "FLAC": "flac", "WAV": "wav"}
HAS_AAC = ffmpeg_path() is not None
needs_ffmpeg = pytest.mark.skipif(not HAS_AAC, reason="AAC is made by ffmpeg, which is not on this machine")
FORMATS_HERE = [pytest.param(each, marks=needs_ffmpeg) if each == "aac" else each for each in FORMATS]


class _Straight(soundfile.SoundFile):
    """Read from the beginning to the end: a FLAC file of open length can't be gone back in."""

    def seekable(self) -> bool:
        return False


def heard(sound: bytes) -> tuple[str, float]:
    """The format of a file, and how many seconds a player would play of it. AAC is told by its frames."""
    if kind_of(sound[:16]) == "aac":
        meter = meter_of("aac")
        meter.feed(sound)
        return "aac", meter.ms / 1000
    with _Straight(io.BytesIO(sound)) as file:
        assert file.subtype == "OPUS" or file.format != "OGG"
        played = 0
        while count := len(file.read(1 << 15, dtype="int16")):
            played += count
        return CONTAINERS[file.format], played / file.samplerate


def said(sound: bytes) -> float:
    """How many seconds a file says that it plays."""
    return float(soundfile.info(io.BytesIO(sound)).duration)
