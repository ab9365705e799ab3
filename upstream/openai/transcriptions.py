"""OpenAI's transcriptions and translations of sound: the call (a form), the whole answer, and its usage.

Some models report tokens, others seconds. What counts is what the route's price goes by; where that was not reported,
it has to be counted. Streams are read in `transcript_stream`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal

import msgspec

from pricing.prices import Rates
from pricing.tokens import ImplausibleUsage, Tokens, Units
from upstream.client import HttpCall
from upstream.form import FormFile, write_form
from upstream.openai.chat import decode_fields
from upstream.openai.errors import error_failure, read_error
from upstream.openai.usage_block import HIDDEN, render_usage
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.sounds import Duration
from upstream.usage import Captured, InputBeyondBounds, UsageLimits, bound_usage, cost_nano_usd, exact_number

_NULL = b"null"
TRANSLATIONS = "/audio/translations"
_MS = 1000
_SLACK_MS = 1000
"""Providers round up to the second."""
MOST_CHARACTERS_PER_S = 40
"""The fastest speakers stay below it."""
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_IMPOSSIBLE = (ImplausibleUsage, ArithmeticError, *_UNREADABLE)
_USAGE = msgspec.json.Decoder(dict[str, object], float_hook=exact_number)
_NUMBER = msgspec.json.Decoder(Decimal | None)


def prepare(
    path: str, fields: Sequence[tuple[str, str]], file: FormFile, route: Route, *, request_id: str, stream: bool
) -> HttpCall:
    """The provider's call for a client's form; `fields` are without the model."""
    body, content_type = write_form([("model", route.provider_model), *fields], [file])
    headers = {
        "content-type": content_type,
        "accept": "text/event-stream" if stream else "application/json",
        "x-request-id": request_id,
    }
    if route.credential:
        headers["authorization"] = f"Bearer {route.credential}"
    is_rare = path == TRANSLATIONS  # even OpenAI has it for one of its models only
    return HttpCall(method="POST", url=route.base_url + path, headers=headers, body=body, is_rare=is_rare)


class HeardUsage:
    """What a provider says that it heard, and what of it can be believed."""

    def __init__(self, *, limits: UsageLimits | None, rates: Rates, duration: Duration) -> None:
        self._limits = limits
        self._duration = duration
        self._by_time = bool(rates.per_minute)
        self._by_token = bool(rates.dearest_input or rates.dearest_output)
        self._shown: dict[str, object] = {}
        self._tokens: Tokens | None = None
        self._ms: int | None = None
        self._heard_ms = 0
        self._reported_cost_nano_usd: int | None = None
        self._implausible = self._beyond_input = False

    def read(self, usage: msgspec.Raw | bytes, *, duration: msgspec.Raw | bytes = _NULL) -> None:
        """Takes a `usage` object in, and the `duration` that some answers have beside it. What of it can't be true
        takes nothing from the rest."""
        found: dict[str, object] = {}
        try:
            found = {} if bytes(usage) == _NULL else _USAGE.decode(usage)
            seconds = found.get("seconds") if found.get("type") == "duration" else None
            self._ms = self._read_seconds(_NUMBER.decode(duration) if seconds is None else seconds)
        except _IMPOSSIBLE:
            self._implausible = True
        try:
            self._tokens = self._read_tokens(found)
        except _IMPOSSIBLE as error:
            self._beyond_input = isinstance(error, InputBeyondBounds)
            self._implausible = True
        try:
            self._reported_cost_nano_usd = cost_nano_usd(found)
        except _IMPOSSIBLE:
            self._implausible = True
        if not self._implausible:
            self._shown = {name: value for name, value in found.items() if name not in HIDDEN}

    def hear(self, text: str) -> None:
        """Takes in what the provider heard: nobody speaks so fast that it could have been over much sooner."""
        self._heard_ms += len(text) * _MS // MOST_CHARACTERS_PER_S

    def captured(self, *, complete: bool, error: str | None = None, error_status: int | None = None) -> Captured:
        """The capture with these counts in it, as far as the price goes by them."""
        missing = (self._by_time and self._ms is None) or (self._by_token and self._tokens is None)
        counted_ms = max(self._duration.likely_ms, min(self._heard_ms, self._duration.held_ms))
        return Captured(
            tokens=(self._tokens or Tokens()) if complete and not missing else None,
            so_far=self._tokens,
            units=Units(requests=1, milliseconds=counted_ms if self._ms is None else self._ms),
            reported_cost_nano_usd=self._reported_cost_nano_usd,
            finish_reason="stop" if complete else "",
            complete=complete,
            error=error,
            error_status=error_status,
            implausible=self._implausible,
            beyond_input=self._beyond_input,
        )

    def render(self, *, tokens: Tokens, cost: str | None) -> msgspec.Raw:
        """The object for the client: the provider's own if that is what is charged, else one made of what is."""
        captured = self.captured(complete=True)
        if self._shown and tokens == captured.tokens:
            return render_usage(self._shown, cost)
        if self._by_time or not tokens.prompt + tokens.completion:
            return render_usage({"type": "duration", "seconds": -(-captured.units.milliseconds // _MS)}, cost)
        counts = {"input_tokens": tokens.prompt, "output_tokens": tokens.completion}
        return render_usage({"type": "tokens", **counts, "total_tokens": tokens.prompt + tokens.completion}, cost)

    def _read_seconds(self, value: object) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or not Decimal(value).is_finite():
            raise ImplausibleUsage("the duration is no number")
        ms = Decimal(value) * _MS
        if not 0 <= ms <= self._duration.most_ms + _SLACK_MS:
            raise ImplausibleUsage("the sound can't be so long")
        return int(ms.to_integral_value(ROUND_CEILING))

    def _read_tokens(self, usage: Mapping[str, object]) -> Tokens | None:
        if usage.get("input_tokens") is None or usage.get("output_tokens") is None:
            return None
        details = usage.get("input_token_details")
        heard = details.get("audio_tokens") if isinstance(details, dict) else None
        sound = Tokens(audio_input=_count(heard)).audio_input
        plain = _count(usage["input_tokens"]) - sound
        if plain < 0:
            raise ImplausibleUsage("the parts exceed the whole")
        tokens = Tokens(input=plain, audio_input=sound, output=_count(usage["output_tokens"]))
        return tokens if self._limits is None else bound_usage(tokens, self._limits)


def _count(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ImplausibleUsage("a count is no count")
    return value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A whole answer in JSON, read. `heard` is its text."""

    fields: dict[str, msgspec.Raw]
    heard: str
    usage: HeardUsage

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with `cost` in its usage."""
        return msgspec.json.encode({**self.fields, "usage": self.usage.render(tokens=tokens, cost=cost)})


def read_answer(body: bytes, *, rates: Rates, duration: Duration, limits: UsageLimits | None = None) -> Transcript:
    """Reads an answer with status 2xx. Raises AttemptFailed when it is an error after all, or no transcript."""
    try:
        fields = decode_fields(body)
        heard = msgspec.json.decode(fields.get("text", _NULL), type=str | None)
    except _UNREADABLE as error:
        raise ProviderMisbehaved("the provider's answer is no transcript") from error
    if heard is None:
        if bytes(fields.get("error", _NULL)) != _NULL:
            raise error_failure(*read_error(fields["error"]))
        raise ProviderMisbehaved("the provider's answer has no text")
    fields.pop("model", None)  # OpenAI names none; another's name for it is not ours
    usage = HeardUsage(limits=limits, rates=rates, duration=duration)
    usage.hear(heard)
    usage.read(fields.pop("usage", _NULL), duration=fields.get("duration", _NULL))
    return Transcript(fields=fields, heard=heard, usage=usage)
