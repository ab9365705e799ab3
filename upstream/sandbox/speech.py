"""The sandbox's speech: no words, but tones in the rhythm of the text, so that nobody takes it for a voice.

Each letter is a tone of its own, of so many milliseconds, spaces and signs are silent: a test can say how long a text
sounds. The same text is the same sound, to the byte; an Ogg file only has a number of its own.
"""

import base64
import math
import struct
from typing import Annotated, Literal

import msgspec

from upstream.sandbox.script import Script, script_of
from upstream.sound_encoder import CONTENT_TYPES, RATE, SpeechFormat, encoded

VOICES = {
    "alloy": 180,
    "ash": 130,
    "ballad": 150,
    "cedar": 110,
    "coral": 220,
    "echo": 120,
    "fable": 190,
    "marin": 230,
    "nova": 240,
    "onyx": 95,
    "sage": 200,
    "shimmer": 250,
    "verse": 140,
}
"""OpenAI's voices, and at what pitch (Hz) each of them hums here."""
MS_PER_CHARACTER = 60
TOKENS_PER_S = 20
MAX_CHARACTERS = 4096
_LOUD = 9000
_FADE_S = 0.008
_PIECE_BYTES = 32 << 10


class BadVoice(ValueError):
    """A voice that the sandbox does not have."""


class SpeechRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that count; all others are ignored."""

    input: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHARACTERS)]
    voice: str | dict[str, object] = "alloy"
    instructions: str = ""
    response_format: SpeechFormat = "mp3"
    speed: Annotated[float, msgspec.Meta(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"

    def script(self) -> Script:
        """What to do. Raises msgspec.MsgspecError when the directive can't be read."""
        return script_of(self.input)

    @property
    def ms(self) -> int:
        """How long it will sound."""
        return round(len(self.input) * MS_PER_CHARACTER / self.speed)


class SpeechAnswer:
    """One text, hummed. Made at once: blocks. Raises BadVoice, FormatMissing, AacFailed."""

    def __init__(self, request: SpeechRequest, script: Script) -> None:
        pitch = VOICES.get(request.voice) if isinstance(request.voice, str) else None
        if pitch is None:
            raise BadVoice(f"The sandbox's voices are {', '.join(VOICES)}.")
        self._request = request
        self._script = script
        sound = encoded(_samples(request.input, ms=request.ms, pitch=pitch), request.response_format)
        count = script.chunks or -(-len(sound) // _PIECE_BYTES)
        size = max(1, -(-len(sound) // count))
        self._pieces = [sound[start : start + size] for start in range(0, len(sound), size)]

    @property
    def content_type(self) -> str:
        """What it is."""
        return "text/event-stream" if self._streams else CONTENT_TYPES[self._request.response_format]

    def pieces(self) -> list[bytes]:
        """The answer as it is sent."""
        if not self._streams:
            return self._pieces
        deltas = [{"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()} for piece in self._pieces]
        return [*map(_event, deltas), _event({"type": "speech.audio.done", **self._usage()})]

    @property
    def _streams(self) -> bool:
        return self._request.stream_format == "sse"

    def _usage(self) -> dict[str, object]:
        script, request = self._script, self._request
        if not script.usage:
            return {}
        words = len(f"{request.input} {request.instructions}".split())
        heard = script.prompt_tokens if script.prompt_tokens is not None else words
        said = script.output_tokens if script.output_tokens is not None else -(-request.ms * TOKENS_PER_S // 1000)
        return {"usage": {"input_tokens": heard, "output_tokens": said, "total_tokens": heard + said}}


def _samples(text: str, *, ms: int, pitch: int) -> bytes:
    """The tones of a text: as long, all of them, as `ms`."""
    tones: dict[tuple[str, int], bytes] = {}
    total, done, out = ms * RATE // 1000, 0, []
    for number, letter in enumerate(text, start=1):
        count = total * number // len(text) - done
        done += count
        tone = tones.get((letter, count))
        if tone is None:
            tone = tones[letter, count] = _tone(letter, count, pitch)
        out.append(tone)
    return b"".join(out)


def _tone(letter: str, count: int, pitch: int) -> bytes:
    if not letter.isalnum():
        return bytes(2 * count)
    step = 2 * math.pi * pitch * (1 + ord(letter.lower()) % 24 / 24) / RATE
    fade = max(1, min(count // 2, int(RATE * _FADE_S)))
    values = [
        int(_LOUD * min(1.0, at / fade, (count - at) / fade) * (math.sin(step * at) + math.sin(3 * step * at) / 3))
        for at in range(count)
    ]
    return struct.pack(f"<{count}h", *values)


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
