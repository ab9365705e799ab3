"""The fields of a request to speak, as OpenAI's clients send them, with what each may be, and how long it may sound.

How long a text will sound is known only when it has been spoken. What is held is what the slowest voice could make of
it; what is charged is what was made. Fields that are not here are handed on as they are.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from upstream.openai.speech import Spoken
from upstream.sound_encoder import SpeechFormat

MAX_CHARACTERS = 4096
"""What OpenAI takes in one call."""
MAX_JOB_CHARACTERS = 65_536
"""About an hour; spoken as a task, in pieces."""
DEFAULT_VOICE = "alloy"
DEFAULT_FORMAT: SpeechFormat = "mp3"
LIKELY_MS_PER_CHARACTER = 60
MOST_MS_PER_CHARACTER = 400
"""Of scripts that write a word with one sign, and of figures."""
MOST_PAUSE_MS = 5000
MOST_TOKENS_PER_S = 50


class CustomVoice(msgspec.Struct, frozen=True, kw_only=True):
    """A voice of one's own at the provider."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]


class SpeechFields(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be spoken, and how. Null is the same as left out."""

    input: Annotated[str, Meta(min_length=1, max_length=MAX_JOB_CHARACTERS)]
    voice: Annotated[str, Meta(min_length=1, max_length=256)] | CustomVoice | None = None
    instructions: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None
    response_format: SpeechFormat | None = None
    speed: Annotated[float, Meta(ge=0.25, le=4)] | None = None
    stream_format: Literal["audio", "sse"] | None = None

    @property
    def spoken(self) -> Spoken:
        """What it takes to speak it."""
        return spoken_of(self.input, wanted=self.response_format or DEFAULT_FORMAT, speed=self.speed or 1.0)


def spoken_of(text: str, *, wanted: SpeechFormat, speed: float) -> Spoken:
    """What speaking this text takes."""
    return Spoken(
        wanted=wanted,
        characters=len(text),
        likely_ms=max(1, round(len(text) * LIKELY_MS_PER_CHARACTER / speed)),
        most_ms=round((len(text) * MOST_MS_PER_CHARACTER + MOST_PAUSE_MS) / speed),
    )


def most_tokens(spoken: Spoken) -> int:
    """The most tokens of sound that it can be."""
    return spoken.most_ms * MOST_TOKENS_PER_S // 1000
