"""A request to speak as a job: what of it matters to tasks, and the most that it can use.

Pure, but for a look at which formats this machine can make.
"""

import dataclasses
from typing import Any

from pricing.tokens import Units
from services.tasks.files.results import MAX_FILE_BYTES
from services.tasks.making.order_body import invalid, read
from services.tasks.making.sentences import pieces_of
from upstream.openai.speech import Spoken
from upstream.openai.speech_fields import DEFAULT_VOICE, MAX_CHARACTERS, SpeechFields, most_tokens, spoken_of
from upstream.sound_encoder import missing

_OURS = frozenset({"model", "input", "stream_format", "response_format", "webhook_url"})
_MOST_BYTES_PER_MS = {"wav": 48, "pcm": 48, "flac": 32}
"""Of the formats that take so much that a long text is no file any more that can be kept."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpeechOrder:
    """What is to be spoken in one piece after the other, and all other fields for the provider."""

    pieces: tuple[str, ...]
    spoken: Spoken
    speed: float
    fields: dict[str, Any]

    @property
    def most(self) -> Units:
        """One request for so many characters, which can sound so long."""
        return Units(requests=1, characters=self.spoken.characters, milliseconds=self.spoken.most_ms)

    def output_tokens(self, _max_output: int) -> int:
        """By the length of the sound: the model's own limit is one call's."""
        return most_tokens(self.spoken)


def parse(body: bytes) -> SpeechOrder:
    """Reads the JSON body. Raises INVALID_REQUEST with `param`."""
    speech, fields = read(body, SpeechFields)
    spoken = speech.spoken
    if not speech.input.strip():
        raise invalid("input", "has nothing to say")
    if speech.stream_format == "sse":
        raise invalid("stream_format", "is wrong: what is spoken as a task comes as a file")
    if spoken.likely_ms * _MOST_BYTES_PER_MS.get(spoken.wanted, 0) > MAX_FILE_BYTES:
        raise invalid("response_format", f"is wrong: so long a text is too large as {spoken.wanted}; take mp3 or opus")
    pieces = tuple(pieces_of(speech.input, most=MAX_CHARACTERS))
    if len(pieces) > 1 and (reason := missing(spoken.wanted)):
        raise invalid("response_format", f"is wrong: {reason}")
    sent = {name: value for name, value in fields.items() if name not in _OURS and value is not None}
    return SpeechOrder(
        pieces=pieces,
        spoken=spoken,
        speed=speech.speed or 1.0,
        fields={"voice": DEFAULT_VOICE, **sent},
    )


def piece_of(order: SpeechOrder, text: str) -> Spoken:
    """What one of its pieces takes: the wanted format, or samples where there are several to be joined."""
    return spoken_of(text, wanted="pcm" if len(order.pieces) > 1 else order.spoken.wanted, speed=order.speed)
