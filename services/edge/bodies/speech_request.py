"""The body of a request to speak: checked, and understood as far as money needs it."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from pricing.tokens import Units
from services.edge.bodies.request_body import decode_body, top_level
from services.edge.paid.paid_request import PaidRequest
from upstream.openai.speech import TOKENS_PER_S, Spoken
from upstream.openai.speech_fields import DEFAULT_VOICE, MAX_CHARACTERS, SpeechFields, most_tokens


class SpeechBody(SpeechFields, frozen=True, kw_only=True):
    """As OpenAI's. Fields that are not here are handed to the provider as they are."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    webhook_url: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest(PaidRequest):
    """A checked body. `as_events` is whether the client wants events in place of bare sound."""

    spoken: Spoken
    as_events: bool

    @property
    def likely_units(self) -> Units:
        """See PaidRequest."""
        return replace(self.most_units, milliseconds=self.spoken.likely_ms)

    @property
    def likely_sound_tokens(self) -> int:
        """See PaidRequest."""
        return self.spoken.likely_ms * TOKENS_PER_S // 1000


class _Length(msgspec.Struct, frozen=True):
    input: str = ""
    webhook_url: object = None


_OURS = ("webhook_url",)
_WEBHOOK = b"webhook_url"
_NULL = msgspec.Raw(b"null")
_DECODER = msgspec.json.Decoder(SpeechBody)
_LENGTH = msgspec.json.Decoder(_Length)


def parse_speech(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> SpeechRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _DECODER)
    spoken = found.spoken
    given = {name: value for name, value in top_level(body).items() if value != _NULL and name not in _OURS}
    return SpeechRequest(
        body=body,
        fields={"voice": DEFAULT_VOICE, **given},
        model=found.model,
        stream=True,
        include_usage=True,
        asked_tokens=most_tokens(spoken),
        is_clampable=False,
        most_units=Units(requests=1, characters=spoken.characters, milliseconds=spoken.most_ms),
        spoken=spoken,
        as_events=found.stream_format == "sse",
    )


def is_job(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether it is spoken as a task: its client does not want to wait, or wants to be told of the end, or the text is
    too long for one call."""
    if any(name == b"prefer" and b"respond-async" in value.lower() for name, value in headers):
        return True
    if len(body) <= MAX_CHARACTERS and _WEBHOOK not in body:
        return False
    try:
        found = _LENGTH.decode(body)
        return len(found.input) > MAX_CHARACTERS or bool(found.webhook_url)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # whose parser says what is wrong
