"""`POST /audio/transcriptions` and `/audio/translations` over providers of OpenAI's protocol.

Providers are asked for JSON only, with segments where subtitles are wanted: plain text and subtitles say nothing of
what was used, and not every provider offers them.
"""

import dataclasses

from pricing.tokens import Tokens
from services.edge.bodies.transcription_request import Format, TranscriptionRequest
from services.edge.paid.paid_request import PaidRequest
from services.edge.translate import subtitles
from upstream.client import HttpCall
from upstream.openai import transcriptions
from upstream.openai.costly import refuse_costly
from upstream.openai.transcript_stream import TranscriptStream
from upstream.openai.transcriptions import Transcript
from upstream.route import Route
from upstream.usage import Answer, Captured, StreamReader, UsageLimits

_ASKED: dict[Format, str] = {"text": "json", "srt": "verbose_json", "vtt": "verbose_json"}
"""What the provider is asked for instead."""
_FINER = ("timestamp_granularities[]", "timestamp_granularities")
"""Fields for which a provider would give words in place of the segments that subtitles are made of."""


class TranscriptionsOverOpenAI:
    """OpenAI's own form. `path` is the endpoint's."""

    def __init__(self, path: str) -> None:
        self._path = path

    def check(self, request: PaidRequest, route: Route) -> None:
        """See Wire."""
        refuse_costly(request.fields, rates=route.price.rates)

    def call(self, request: PaidRequest, route: Route, *, max_tokens: int, request_id: str) -> HttpCall:
        """See Wire."""
        form = _form(request)
        asked = _ASKED.get(form.response_format, form.response_format)
        ours = [("response_format", asked), *([("stream", "true")] if form.stream else [])]
        passed_on = [field for field in form.passed_on if asked == form.response_format or field[0] not in _FINER]
        return transcriptions.prepare(
            self._path, [*passed_on, *ours], form.file, route, request_id=request_id, stream=form.stream
        )

    def stream(self, request: PaidRequest, route: Route, *, include_usage: bool, limits: UsageLimits) -> StreamReader:
        """See Wire."""
        return TranscriptStream(rates=route.price.rates, duration=_form(request).duration, limits=limits)

    def answer(self, body: bytes, request: PaidRequest, route: Route, *, limits: UsageLimits) -> Answer:
        """See Wire."""
        form = _form(request)
        found = transcriptions.read_answer(body, rates=route.price.rates, duration=form.duration, limits=limits)
        return Transcription(
            captured=found.usage.captured(complete=True),
            transcript=found,
            response_format=form.response_format,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transcription:
    """A whole transcript, in the format that the client asked for."""

    captured: Captured
    transcript: Transcript
    response_format: Format

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client."""
        found = self.transcript
        if self.response_format == "text":
            return f"{found.heard}\n".encode()
        if self.response_format in ("srt", "vtt"):
            duration_ms = self.captured.units.milliseconds
            segments = subtitles.segments_of(found.fields, text=found.heard, duration_ms=duration_ms)
            return (subtitles.srt if self.response_format == "srt" else subtitles.vtt)(segments).encode()
        return found.render(tokens=tokens, cost=cost)

    def text(self) -> str:
        """All text in it, for counting."""
        return self.transcript.heard


def _form(request: PaidRequest) -> TranscriptionRequest:
    if not isinstance(request, TranscriptionRequest):
        raise TypeError("this wire carries transcriptions only")
    return request
