"""A stream of transcript events in OpenAI's shape: relayed as they come, the last one held back for its usage.

A provider may answer a call for a stream with the whole answer, as OpenAI does for models that can't stream; that is
read when it has come, and given as the two events that it would have been.
"""

from collections.abc import Mapping

import msgspec

from pricing.prices import Rates
from pricing.tokens import Tokens
from upstream.kept_text import KeptText
from upstream.openai.chat import decode_fields
from upstream.openai.errors import read_error
from upstream.openai.transcriptions import HeardUsage
from upstream.outcome import ProviderMisbehaved
from upstream.sounds import Duration
from upstream.sse import MAX_EVENT_BYTES, EventSplitter, data_of
from upstream.usage import Captured, UsageLimits

_NULL = b"null"
_DONE = "transcript.text.done"
_DELTA = "transcript.text.delta"
_SEGMENT = "transcript.text.segment"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    delta: str | None = None
    text: str | None = None


class TranscriptStream:
    """One stream's `StreamReader`."""

    def __init__(self, *, rates: Rates, duration: Duration, limits: UsageLimits | None = None) -> None:
        self._usage = HeardUsage(limits=limits, rates=rates, duration=duration)
        self._splitter = EventSplitter()
        self._whole: bytearray | None = None
        self._seen = False
        self._done: dict[str, msgspec.Raw] = {}
        self._error: str | None = None
        self._error_status: int | None = None
        self._kept = KeptText(limits)
        self._has_deltas = False
        self.has_content = False

    @property
    def ended(self) -> bool:
        """True once the last event or an error was seen. A whole answer is looked at by `finish` only."""
        return bool(self._done) or self._error is not None

    def feed(self, data: bytes) -> bytes:
        """The bytes to relay for one read. Raises ProviderMisbehaved."""
        if not self._seen and data.strip():
            self._seen = True
            self._whole = bytearray() if data.lstrip()[:1] == b"{" else None
        if self._whole is not None:
            self._whole += data
            if len(self._whole) > MAX_EVENT_BYTES:
                raise ProviderMisbehaved("the provider's answer is larger than an event may be")
            return b""
        out = []
        for raw in self._splitter.feed(data):
            if self.ended:
                break
            payload = data_of(raw)
            if payload is None or not payload.strip() or payload.strip() == b"[DONE]":
                continue
            out.append(self._event(payload))
        return b"".join(out)

    def finish(self) -> Captured:
        """What was captured so far."""
        if self._whole is not None and not self.ended:
            self._read_whole(bytes(self._whole))
        complete = bool(self._done) and self._error is None
        return self._usage.captured(complete=complete, error=self._error, error_status=self._error_status)

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """The last event, with what is charged in it."""
        said = self._done or {"type": _raw(_DONE), "text": _raw(self.delivered_text())}
        last = _written({**said, "usage": self._usage.render(tokens=tokens, cost=cost)})
        text = None if self._whole is None else _text(said.get("text"))
        return last if text is None else _written({"type": _raw(_DELTA), "delta": _raw(text)}) + last

    def stop_delivery(self) -> None:
        """From now on nothing counts as delivered."""
        self._kept.stop()

    def delivered_text(self) -> str:
        """All text handed out so far."""
        return self._kept.text()

    def _read_whole(self, answer: bytes) -> None:
        try:
            fields = decode_fields(answer)
        except _UNREADABLE:
            return  # not all of it has come
        text = _text(fields.get("text"))
        if bytes(fields.get("error", _NULL)) != _NULL or text is None:
            self._fail(fields)
            return
        self._keep(text)
        self._end({"type": _raw(_DONE), **fields})

    def _event(self, payload: bytes) -> bytes:
        try:
            event = msgspec.json.decode(payload, type=_Event)
            fields = decode_fields(payload)
        except _UNREADABLE as error:
            raise ProviderMisbehaved("the provider sent an event that is no transcript event") from error
        if event.type == "error" or bytes(fields.get("error", _NULL)) != _NULL:
            self._fail(fields)
            return b""
        if event.type == _DONE:
            if not self.has_content and event.text:
                self._keep(event.text)
            self._end(fields)
            return b""
        if event.delta:
            self._has_deltas = True
            self._keep(event.delta)
        elif event.type == _SEGMENT and event.text and not self._has_deltas:
            self._keep(event.text)
        return _written(fields)

    def _keep(self, text: str) -> None:
        self.has_content = True
        self._usage.hear(text)
        self._kept.add(text)

    def _end(self, fields: dict[str, msgspec.Raw]) -> None:
        self.has_content = True
        self._usage.read(fields.pop("usage", _NULL), duration=fields.get("duration", _NULL))
        # Copies: a Raw is a view that would hold the whole read.
        self._done = {name: msgspec.Raw(bytes(value)) for name, value in fields.items()}

    def _fail(self, fields: Mapping[str, msgspec.Raw]) -> None:
        self._error, self._error_status = read_error(fields.get("error", msgspec.Raw(msgspec.json.encode(fields))))


def _text(raw: msgspec.Raw | None) -> str | None:
    try:
        value: object = msgspec.json.decode(raw) if raw is not None else None
    except _UNREADABLE:
        return None
    return value if isinstance(value, str) else None


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))


def _written(fields: Mapping[str, msgspec.Raw]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"
