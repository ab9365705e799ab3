"""OpenAI's speech: the call, and the sound that comes back, as bare bytes or as events with the sound in base64.

Bare bytes say nothing of what they cost, events do. So where the price goes by tokens events are asked for, whatever
the client wants, and the client gets what it asked for: one form is made of the other as it passes. A provider that
does not know events sends bytes, which is seen at once. What nobody reports is counted by the length of the sound.
"""

import base64
import binascii
import dataclasses
from collections.abc import Mapping

import msgspec

from pricing.prices import Rates
from pricing.tokens import ImplausibleUsage, Tokens, Units
from upstream.client import HttpCall
from upstream.openai.chat import json_call
from upstream.openai.errors import read_error
from upstream.openai.usage_block import render_usage
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.sound_encoder import CONTENT_TYPES, SpeechFormat
from upstream.sound_meters import Meter, kind_of, meter_of
from upstream.sse import EventSplitter, data_of
from upstream.usage import Captured, UsageLimits, bound_usage, cost_nano_usd, exact_number

PATH = "/audio/speech"
EVENTS = b"text/event-stream; charset=utf-8"
TOKENS_PER_S = 21
"""What OpenAI's model makes of a second of sound: its price by tokens is so that of its price by the minute."""
MOST_BYTES_PER_MS = 512
"""48,000 samples a second of two channels of four bytes, in base64."""
_NULL = b"null"
_DELTA, _DONE = "speech.audio.delta", "speech.audio.done"
_BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b":")
_SNIFF = 16
_HELD_BACK = 64
"""Bytes that leave with the end only, so that nobody has the whole before it is paid for."""
_IMPOSSIBLE = (ImplausibleUsage, ArithmeticError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_USAGE = msgspec.json.Decoder(dict[str, object], float_hook=exact_number)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What is to be spoken, as far as money needs it: how long it likely sounds, and at most."""

    wanted: SpeechFormat
    characters: int
    likely_ms: int
    most_ms: int


def prepare(body: Mapping[str, object], route: Route, *, request_id: str, as_events: bool) -> HttpCall:
    """The provider's call for a client's request; fields that we don't know travel on."""
    fields = {name: value for name, value in body.items() if name != "stream_format"}
    if as_events:
        fields["stream_format"] = "sse"
    call = json_call(route, PATH, {**fields, "model": route.provider_model}, request_id=request_id)
    return dataclasses.replace(call, headers={**call.headers, "accept": "*/*"})


def is_by_token(rates: Rates) -> bool:
    """Whether tokens cost, so that the provider has to report them."""
    return bool(rates.dearest_input or rates.dearest_output)


class SpeechStream:
    """One stream's `StreamReader`; its bytes are a sound, or with `as_events` events for the client."""

    def __init__(
        self, *, spoken: Spoken, rates: Rates, as_events: bool, may_be_events: bool, limits: UsageLimits | None = None
    ) -> None:
        self._spoken = spoken
        self._by_token = is_by_token(rates)
        self._by_time = bool(rates.per_minute)
        self._as_events = as_events
        self._limits = limits
        self._undecided: bytes | None = b"" if may_be_events else None
        self._splitter: EventSplitter | None = None
        self._meter: Meter | None = None
        self._kind = spoken.wanted
        self._head = b""
        self._held = b""
        self._gone_ms: int | None = None
        self._usage: Tokens | None = None
        self._cost: int | None = None
        self._implausible = False
        self._error: str | None = None
        self._error_status: int | None = None
        self._complete = False
        self.has_content = False

    @property
    def ended(self) -> bool:
        """True once an event said so. Bare bytes end with their connection: `at_end`."""
        return self._error is not None or (self._complete and self._splitter is not None)

    @property
    def content_type(self) -> bytes:
        """What the client gets, as far as the first bytes tell."""
        return EVENTS if self._as_events else CONTENT_TYPES[self._kind].encode()

    @property
    def most_bytes(self) -> int:
        """All of the longest sound, in the largest of formats."""
        return self._spoken.most_ms * MOST_BYTES_PER_MS

    def feed(self, data: bytes) -> bytes:
        """The bytes to relay for one read. Raises ProviderMisbehaved."""
        if self._undecided is not None:
            self._undecided += data
            start = self._undecided.lstrip()
            if len(start) < _SNIFF:
                return b""
            data, self._undecided = self._undecided, None
            self._splitter = EventSplitter() if start.startswith(_BEGINNINGS) else None
        sound = data if self._splitter is None else b"".join(map(self._event, self._splitter.feed(data)))
        return self._relayed(sound) if sound or (self._complete and self._head) else b""

    def at_end(self) -> None:
        """The provider's answer is over, as it was to be: of bare bytes nothing else tells."""
        if self._splitter is None and self.has_content:
            self._complete = True

    def finish(self) -> Captured:
        """What was captured so far. Of what was not finished, what was delivered."""
        ms = self._ms if self._complete or self._gone_ms is None else self._gone_ms
        missing = self._by_time or (self._by_token and self._usage is None)
        made = min(ms, self._spoken.most_ms)
        return Captured(
            tokens=(self._usage or Tokens()) if self._complete and not missing else None,
            so_far=self._usage,
            units=Units(requests=1, characters=self._characters(made), milliseconds=made),
            reported_cost_nano_usd=self._cost,
            finish_reason="stop" if self._complete else "",
            complete=self._complete,
            error=self._error,
            error_status=self._error_status,
            implausible=self._implausible or ms > made,
            sound_tokens=-(-made * TOKENS_PER_S // 1000),
        )

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """The last bytes of the sound; as events, and what it cost."""
        held, self._held = self._held, b""
        if not self._as_events:
            return held
        counts = {"input_tokens": tokens.prompt, "output_tokens": tokens.completion}
        usage = render_usage({**counts, "total_tokens": tokens.prompt + tokens.completion}, cost)
        return (_delta(held) if held else b"") + _written({"type": _DONE, "usage": usage})

    def stop_delivery(self) -> None:
        """From now on nothing counts as delivered."""
        if self._gone_ms is None:
            self._gone_ms = self._ms

    def delivered_text(self) -> str:
        """There is no text in it."""
        return ""

    @property
    def _ms(self) -> int:
        found = self._meter.ms if self._meter is not None else 0
        return found or (self._spoken.likely_ms if self._complete else 0)

    def _characters(self, ms: int) -> int:
        """All of them, or of what was broken off so many as the sound that there is took."""
        spoken = self._spoken
        if self._complete:
            return spoken.characters
        return min(spoken.characters, -(-ms * spoken.characters // max(1, spoken.likely_ms)))

    def _relayed(self, sound: bytes) -> bytes:
        if self._meter is None:
            sound, self._head = self._head + sound, b""
            if len(sound) < _SNIFF and not self._complete:
                self._head = sound
                return b""
            self._meter = self._measured(sound)
        self.has_content = True
        self._meter.feed(sound)
        ready = self._held + sound
        keep = max(0, len(ready) - _HELD_BACK)
        ready, self._held = ready[:keep], ready[keep:]
        return _delta(ready) if ready and self._as_events else ready

    def _measured(self, head: bytes) -> Meter:
        if self._spoken.wanted != "pcm":
            if head.lstrip()[:1] in (b"{", b"<"):
                raise ProviderMisbehaved("the provider's answer is no sound")
            self._kind = kind_of(head) or self._spoken.wanted
        return meter_of(self._kind)

    def _event(self, raw: bytes) -> bytes:
        """The sound in one event."""
        payload = data_of(raw)
        if self.ended or payload is None or payload.strip() in (b"", b"[DONE]"):
            return b""
        try:
            event = msgspec.json.decode(payload, type=_Event)
            sound = base64.b64decode(event.audio or "", validate=True)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, binascii.Error) as error:
            raise ProviderMisbehaved("the provider sent an event that is no speech") from error
        if event.type == "error" or bytes(event.error) != _NULL:
            self._error, self._error_status = read_error(event.error if bytes(event.error) != _NULL else payload)
        elif event.type == _DONE:
            self._read_usage(bytes(event.usage))
            self._complete = self.has_content = True
        return sound

    def _read_usage(self, usage: bytes) -> None:
        try:
            found = {} if usage == _NULL else _USAGE.decode(usage)
            self._usage = self._tokens(found)
            self._cost = cost_nano_usd(found)
        except _IMPOSSIBLE:
            self._implausible = True

    def _tokens(self, usage: Mapping[str, object]) -> Tokens | None:
        heard, made = usage.get("input_tokens"), usage.get("output_tokens")
        if heard is None or made is None:
            return None
        tokens = Tokens(input=_count(heard), audio_output=_count(made))
        return tokens if self._limits is None else bound_usage(tokens, self._limits)


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    audio: str | None = None
    usage: msgspec.Raw = msgspec.Raw(_NULL)
    error: msgspec.Raw = msgspec.Raw(_NULL)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ImplausibleUsage("a count is no count")
    return value


def _delta(sound: bytes) -> bytes:
    return _written({"type": _DELTA, "audio": base64.b64encode(sound).decode()})


def _written(fields: Mapping[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"
