"""The body of a request to speak: checked, and understood as far as money needs it.

How long a text will sound is known only when it has been spoken. What is held is what the slowest voice could make of
it; what is charged is what was made.
"""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pricing.tokens import Units
from services.edge.paid_request import PaidRequest
from services.edge.request_body import decode_body, top_level
from upstream.openai.speech import TOKENS_PER_S, Spoken
from upstream.sound_encoder import SpeechFormat

MAX_CHARACTERS = 4096
"""What OpenAI takes in one call."""
DEFAULT_VOICE = "alloy"
LIKELY_MS_PER_CHARACTER = 60
MOST_MS_PER_CHARACTER = 400
"""Of scripts that write a word with one sign, and of figures."""
MOST_PAUSE_MS = 5000
MOST_TOKENS_PER_S = 50


class CustomVoice(msgspec.Struct, frozen=True, kw_only=True):
    """A voice of one's own at the provider."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]


class SpeechBody(msgspec.Struct, frozen=True, kw_only=True):
    """As OpenAI's. Fields that are not here are handed to the provider as they are."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: Annotated[str, Meta(min_length=1, max_length=MAX_CHARACTERS)]
    voice: Annotated[str, Meta(min_length=1, max_length=256)] | CustomVoice | None = None
    instructions: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None
    response_format: SpeechFormat | None = None
    speed: Annotated[float, Meta(ge=0.25, le=4)] | None = None
    stream_format: Literal["audio", "sse"] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest(PaidRequest):
    """A checked body. `as_events` is whether the client wants events in place of bare sound."""

    spoken: Spoken
    as_events: bool

    @property
    def likely_units(self) -> Units:
        """See PaidRequest."""
        return dataclasses.replace(self.most_units, milliseconds=self.spoken.likely_ms)

    @property
    def likely_sound_tokens(self) -> int:
        """See PaidRequest."""
        return self.spoken.likely_ms * TOKENS_PER_S // 1000


_NULL = msgspec.Raw(b"null")
_DECODER = msgspec.json.Decoder(SpeechBody)


def parse_speech(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> SpeechRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _DECODER)
    spoken = spoken_of(found.input, wanted=found.response_format or "mp3", speed=found.speed or 1.0)
    given = {name: value for name, value in top_level(body).items() if value != _NULL}
    return SpeechRequest(
        body=body,
        fields={"voice": DEFAULT_VOICE, **given},
        model=found.model,
        stream=True,
        include_usage=True,
        asked_tokens=spoken.most_ms * MOST_TOKENS_PER_S // 1000,
        is_clampable=False,
        most_units=Units(requests=1, characters=spoken.characters, milliseconds=spoken.most_ms),
        spoken=spoken,
        as_events=found.stream_format == "sse",
    )


def spoken_of(text: str, *, wanted: SpeechFormat, speed: float) -> Spoken:
    """What speaking this text takes."""
    return Spoken(
        wanted=wanted,
        characters=len(text),
        likely_ms=max(1, round(len(text) * LIKELY_MS_PER_CHARACTER / speed)),
        most_ms=round((len(text) * MOST_MS_PER_CHARACTER + MOST_PAUSE_MS) / speed),
    )
