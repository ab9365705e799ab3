"""Anthropic's Messages for clients that speak them too: what the provider sends is relayed as it came.

Changed are the model's name and the usage, to which our cost is added. So that the cost is known when it is written,
the `message_delta` that carries the usage is held back until the stream has ended.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from pricing.tokens import MAX_COUNT, Tokens
from upstream.anthropic import messages
from upstream.anthropic.messages import Event, Message, MessagesReader, text_of
from upstream.anthropic.usage_block import UsageSoFar
from upstream.client import HttpCall
from upstream.kept_text import KeptText
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.sse import EventSplitter, data_of, is_error
from upstream.usage import Captured, UsageLimits

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_EVENT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BEGIN_EMPTY = ("text", "thinking")
_NOTHING = Tokens()
_OBJECT = msgspec.Raw(b"{}")


class _Count(msgspec.Struct, frozen=True):
    input_tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


def prepare(
    body: Mapping[str, object],
    route: Route,
    *,
    max_tokens: int,
    stream: bool,
    request_id: str,
    headers: Mapping[str, str],
) -> HttpCall:
    """The provider's call for a client's request; `headers` are those of the client's that travel on."""
    call = messages.prepare({**body, "max_tokens": max_tokens}, route, stream=stream, request_id=request_id)
    return dataclasses.replace(call, headers={**headers, **call.headers})


def prepare_count(body: Mapping[str, object], route: Route, *, request_id: str, headers: Mapping[str, str]) -> HttpCall:
    """The provider's call that counts a request's input and runs nothing."""
    call = messages.prepare(body, route, stream=False, request_id=request_id)
    fields = {**body, "model": route.provider_model}
    return dataclasses.replace(
        call, url=f"{call.url}/count_tokens", headers={**headers, **call.headers}, body=msgspec.json.encode(fields)
    )


def read_count(body: bytes) -> int:
    """How many tokens it counted. Raises ProviderMisbehaved."""
    try:
        return msgspec.json.decode(body, type=_Count).input_tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProviderMisbehaved("the provider's answer is no count") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NativeMessage:
    """A whole message, as it came."""

    captured: Captured
    message: Message
    usage: UsageSoFar
    fields: dict[str, msgspec.Raw]
    model: str

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id and `cost` in its usage."""
        usage = self.usage.render(tokens, cost, own=tokens == self.captured.tokens)
        return msgspec.json.encode({**self.fields, "model": self.model, "usage": usage})

    def text(self) -> str:
        """All text in it, for counting."""
        return "".join(map(text_of, self.message.content))


def read_answer(body: bytes, *, model: str, limits: UsageLimits | None = None) -> NativeMessage:
    """Reads a whole answer with status 2xx. Raises AttemptFailed when it is none."""
    message, captured, usage = messages.read_message(body, limits=limits)
    return NativeMessage(captured=captured, message=message, usage=usage, fields=_FIELDS.decode(body), model=model)


class MessagesRelay:
    """One stream's `StreamReader`. `model` is the public id that takes the place of the provider's."""

    def __init__(self, *, model: str, limits: UsageLimits | None = None) -> None:
        self._model = msgspec.Raw(msgspec.json.encode(model))
        self._splitter = EventSplitter()
        self._reader = MessagesReader(limits=limits)
        self._open: set[int] = set()
        self._last: dict[str, msgspec.Raw] = {}
        self._stop: dict[str, msgspec.Raw] = {}
        self._kept = KeptText(limits)
        self.has_content = False

    @property
    def ended(self) -> bool:
        """True once the message's stop or an error was seen."""
        return self._reader.ended

    def feed(self, data: bytes) -> bytes:
        """The bytes to relay for one read. Raises ProviderMisbehaved."""
        out: list[bytes] = []
        for raw in self._splitter.feed(data):
            if self.ended:
                break
            payload = data_of(raw)
            if payload is None:
                out.append(b":\n\n" if raw.startswith(b":") else b"")
            elif payload := payload.strip():
                out.append(self._event(self._reader.read(payload, failed=is_error(raw)), payload))
        return b"".join(out)

    def finish(self) -> Captured:
        """What was captured so far."""
        return self._reader.captured()

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """The end: blocks that are still open, the stop reason and the usage with `cost`, and the message's stop.

        A stream that was cut at its total time has come to its limit of tokens, as far as its client can see.
        """
        captured = self.finish()
        delta: dict[str, object] = {**self._stop}
        if not captured.finish_reason:
            delta |= {"stop_reason": "max_tokens" if cut else "end_turn", "stop_sequence": None}
        usage = self._reader.usage.render(tokens, cost, own=tokens == captured.tokens)
        last = {**self._last, "type": "message_delta", "delta": delta, "usage": usage}
        stops = [_sse("content_block_stop", {"type": "content_block_stop", "index": n}) for n in sorted(self._open)]
        return b"".join((*stops, _sse("message_delta", last), _sse("message_stop", {"type": "message_stop"})))

    def stop_delivery(self) -> None:
        """From now on nothing counts as delivered."""
        self._kept.stop()

    def delivered_text(self) -> str:
        """All text handed out so far."""
        return self._kept.text()

    def _event(self, event: Event, payload: bytes) -> bytes:
        kind = event.type
        if kind == "content_block_delta":
            if event.delta is not None:
                self._delivered(event.delta.text or event.delta.thinking or event.delta.partial_json or "")
        elif kind == "content_block_start":
            self._begin_block(event)
        elif kind == "content_block_stop":
            self._open.discard(event.index)
        elif kind == "message_start":
            return self._start(payload)
        elif kind == "message_delta":
            return self._hold(payload)
        if kind in ("message_stop", "error") or not _EVENT_NAME.fullmatch(kind):
            return b""
        return _framed(kind, payload)

    def _begin_block(self, event: Event) -> None:
        block = event.content_block
        self._open.add(event.index)
        if block is not None:
            self.has_content = self.has_content or block.type not in _BEGIN_EMPTY
            self._delivered((block.text or "") + (block.thinking or "") + (block.name or ""))

    def _start(self, payload: bytes) -> bytes:
        fields = _fields(payload)
        message = _fields(fields.get("message", _OBJECT))
        shown = {**message, "model": self._model, "usage": self._reader.usage.render(_NOTHING, None, own=True)}
        return _sse("message_start", {**fields, "message": shown})

    def _hold(self, payload: bytes) -> bytes:
        """Keeps the end for later; should it come in several parts, what they say adds up."""
        fields = _fields(payload)
        stop = _fields(fields.pop("delta", _OBJECT))
        self._stop.update({name: raw for name, raw in stop.items() if bytes(raw) != b"null" or name not in self._stop})
        self._last.update(fields)
        self.has_content = self.has_content or bool(self._reader.captured().finish_reason)
        return b""

    def _delivered(self, text: str) -> None:
        if not text:
            return
        self.has_content = True
        self._kept.add(text)


def _fields(raw: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """An object by its fields, as copies: a Raw is a view that would hold the whole event."""
    try:
        found = _FIELDS.decode(raw) if bytes(raw) != b"null" else {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProviderMisbehaved("the provider sent an event that is no Messages event") from error
    return {name: msgspec.Raw(bytes(value)) for name, value in found.items()}


def _sse(name: str, event: Mapping[str, object]) -> bytes:
    return _framed(name, msgspec.json.encode(event))


def _framed(name: str, payload: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"
