"""Speech to text: Moonshine tiny, English only. Reads what libsndfile reads: WAV, FLAC, MP3, Ogg, AIFF.

The sound is bounded in length before it is decoded, since a small file can hold hours.
"""

import ctypes
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

from upstream.local.failure import Refused
from upstream.local.installed import folder_of

WAITING = 8
MAX_FILE_BYTES = 26 << 20
MAX_SECONDS = 600
MAX_RATE, MAX_CHANNELS = 192_000, 8
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_BLOCK_FRAMES = 1 << 18


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What was said from when to when, in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A whole transcript."""

    seconds: float
    lines: Sequence[Line]

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(line.text for line in self.lines)


Listener = Callable[[bytes], Heard]


def load() -> Listener:
    """Loads the model; blocks for a second or so."""
    import moonshine_voice.transcriber as moonshine
    from moonshine_voice.moonshine_api import ModelArch, TranscriptC

    transcriber = moonshine.Transcriber(str(folder_of("moonshine_voice") / "assets" / "tiny-en"), ModelArch.TINY)

    def listen(file: bytes) -> Heard:
        samples, rate = decode(file)
        # its own method takes a list, which would be four times as large as the sound
        out = ctypes.POINTER(TranscriptC)()
        pointer = samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        call = transcriber._lib.moonshine_transcribe_without_streaming  # see above
        if call(transcriber._handle, pointer, len(samples), rate, 0, ctypes.byref(out)) != 0:
            raise RuntimeError("moonshine could not transcribe this")
        lines = transcriber._parse_transcript(out).lines
        return Heard(
            seconds=len(samples) / rate,
            lines=[
                Line(start_s=line.start_time, end_s=line.start_time + line.duration, text=line.text.strip())
                for line in lines
            ],
        )

    return listen


def decode(file: bytes) -> tuple[Any, int]:
    """The samples as one channel of 32-bit floats, and their rate. Raises Refused."""
    import numpy
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(file)) as sound:
            rate, channels = sound.samplerate, sound.channels
            if not 1000 <= rate <= MAX_RATE or not 1 <= channels <= MAX_CHANNELS:
                raise Refused(400, "The sound's rate or number of channels can't be.", "file")
            blocks, frames = [], 0
            while len(block := sound.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                frames += len(block)
                if frames > MAX_SECONDS * rate:
                    raise Refused(400, f"The sound is longer than {MAX_SECONDS} s.", "file")
                blocks.append(block.mean(axis=1, dtype="float32"))
    except soundfile.LibsndfileError:
        raise Refused(400, "The file is no sound that can be read: use WAV, FLAC, MP3 or Ogg.", "file") from None
    if not frames:
        raise Refused(400, "The sound is empty.", "file")
    return numpy.ascontiguousarray(numpy.concatenate(blocks)), rate


def check_fields(fields: dict[str, str]) -> str:
    """The format that is asked for. Raises Refused for what this model can't do."""
    wanted = fields.get("response_format") or "json"
    if wanted not in FORMATS:
        raise Refused(400, f"response_format is one of {', '.join(FORMATS)}.", "response_format")
    if fields.get("language", "en").lower() not in ("en", "english", ""):
        raise Refused(400, "This model hears English only.", "language")
    if fields.get("stream", "").lower() == "true":
        raise Refused(400, "This model does not stream.", "stream")
    if "word" in (fields.get("timestamp_granularities[]"), fields.get("timestamp_granularities")):
        raise Refused(400, "This model tells the times of segments only.", "timestamp_granularities")
    return wanted


def rendered(heard: Heard, wanted: str) -> dict[str, object] | str:
    """The answer in a format: an object for JSON, else the text itself."""
    usage = {"type": "duration", "seconds": -int(-heard.seconds // 1)}
    if wanted == "json":
        return {"text": heard.text, "usage": usage}
    if wanted == "text":
        return heard.text + "\n"
    if wanted == "verbose_json":
        return {
            "task": "transcribe",
            "language": "english",
            "duration": round(heard.seconds, 3),
            "text": heard.text,
            "segments": [_segment(number, line) for number, line in enumerate(heard.lines)],
            "usage": usage,
        }
    dot = "." if wanted == "vtt" else ","
    cues = [f"{_clock(line.start_s, dot)} --> {_clock(line.end_s, dot)}\n{line.text}\n\n" for line in heard.lines]
    if wanted == "vtt":
        return "WEBVTT\n\n" + "".join(cues)
    return "".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1))


def _segment(number: int, line: Line) -> dict[str, object]:
    return {"id": number, "start": round(line.start_s, 3), "end": round(line.end_s, 3), "text": line.text}


def _clock(seconds: float, dot: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{dot}{ms % 1000:03}"
