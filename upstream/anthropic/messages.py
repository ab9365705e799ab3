"""Anthropic's Messages API: the call, the stream as typed events, the whole answer, and their usage.

Usage comes in two places: the input classes when the stream starts, the output, cumulative, when it ends. Counts in
`message_start` are no charge yet: its output count is a beginning.
"""

from collections.abc import Mapping

import msgspec

from upstream.anthropic.usage_block import UsageSoFar
from upstream.attempt import provider_message
from upstream.client import HttpCall
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.sse import EventSplitter, data_of, is_error
from upstream.usage import Captured, UsageLimits

API_VERSION = "2023-06-01"
ERROR_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that each error type stands for, when it comes inside a stream."""


class Block(msgspec.Struct, frozen=True):
    """A content block, or its beginning."""

    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    input: object = None


def text_of(block: Block) -> str:
    """All of a block that tokens were paid for and that can be read."""
    call = (block.name or "") + msgspec.json.encode(block.input or {}).decode() if block.type == "tool_use" else ""
    return (block.text or "") + (block.thinking or "") + call


class Delta(msgspec.Struct, frozen=True):
    """A piece of a content block, or the end of the message."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class Message(msgspec.Struct, frozen=True):
    """A message, whole or at its start."""

    id: str = ""
    content: list[Block] = []
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    type: str = ""
    error: msgspec.Raw = msgspec.Raw(b"null")


class Event(msgspec.Struct, frozen=True):
    """One event of a stream. Which fields are there depends on `type`; types that we don't know carry none."""

    type: str = ""
    index: int = 0
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _ErrorType(msgspec.Struct, frozen=True):
    type: str = ""


_EVENT = msgspec.json.Decoder(Event)
_MESSAGE = msgspec.json.Decoder(Message)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def prepare(body: Mapping[str, object], route: Route, *, stream: bool, request_id: str) -> HttpCall:
    """The provider's call for a Messages request; its `max_tokens` is already ours."""
    fields = {**body, "model": route.provider_model, "stream": stream}
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "anthropic-version": API_VERSION,
        "x-api-key": route.credential,
        "x-request-id": request_id,
    }
    return HttpCall(method="POST", url=messages_url(route.base_url), headers=headers, body=msgspec.json.encode(fields))


def messages_url(base_url: str) -> str:
    """Where messages are posted, whether the base URL already names the version or not."""
    base = base_url.rstrip("/")
    return f"{base}/messages" if base.endswith("/v1") else f"{base}/v1/messages"


class MessagesReader:
    """Reads a stream into events, and captures what money needs on the way."""

    def __init__(self, *, limits: UsageLimits | None = None) -> None:
        self._splitter = EventSplitter()
        self._usage = UsageSoFar(limits)
        self._id = ""
        self._stop_reason = ""
        self._stopped = False
        self._error: str | None = None
        self._error_status: int | None = None

    @property
    def ended(self) -> bool:
        """True once the message's stop or an error was seen."""
        return self._stopped or self._error is not None

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete, pings included, an error not. Raises ProviderMisbehaved."""
        events = []
        for raw in self._splitter.feed(data):
            if self.ended:
                break
            payload = data_of(raw)
            if payload is None or not payload.strip():
                continue
            event = self.read(payload, failed=is_error(raw))
            if event.type != "error":
                events.append(event)
        return events

    def read(self, payload: bytes, *, failed: bool = False) -> Event:
        """One event by its data, taken in; `failed` when it is named an error. Raises ProviderMisbehaved."""
        try:
            event = _EVENT.decode(payload)
        except _UNREADABLE as error:
            raise ProviderMisbehaved("the provider sent an event that is no Messages event") from error
        if failed and event.type != "error":
            said = msgspec.Raw(payload) if bytes(event.error) == b"null" else event.error
            event = Event(type="error", error=said)
        self._take(event)
        return event

    @property
    def usage(self) -> UsageSoFar:
        """The usage as it stands, whether it can be believed or not."""
        return self._usage

    def captured(self) -> Captured:
        """What was captured so far."""
        complete = self._error is None and (self._stopped or bool(self._stop_reason))
        return self._usage.captured(
            generation_id=self._id,
            finish_reason=self._stop_reason,
            complete=complete,
            error=self._error,
            error_status=self._error_status,
        )

    def _take(self, event: Event) -> None:
        if event.type == "content_block_delta":
            return
        if event.type == "message_start" and event.message is not None:
            self._id = event.message.id[:200]
            self._usage.add(event.message.usage, final=False)
        elif event.type == "message_delta":
            if event.delta is not None and event.delta.stop_reason:
                self._stop_reason = event.delta.stop_reason
            self._usage.add(event.usage, final=True)
        elif event.type == "message_stop":
            self._stopped = True
        elif event.type == "error":
            self._error, self._error_status = read_error(event.error)


def read_message(body: bytes, *, limits: UsageLimits | None = None) -> tuple[Message, Captured, UsageSoFar]:
    """Reads a whole answer with status 2xx. Raises ProviderMisbehaved when it is none."""
    try:
        message = _MESSAGE.decode(body)
    except _UNREADABLE as error:
        raise ProviderMisbehaved("the provider's answer is no message") from error
    if message.type != "message":
        raise ProviderMisbehaved("the provider's answer is no message", excerpt=provider_message(body))
    usage = UsageSoFar(limits)
    usage.add(message.usage, final=True)
    captured = usage.captured(
        generation_id=message.id[:200],
        finish_reason=message.stop_reason or "",
        complete=True,
        error=None,
        error_status=None,
    )
    return message, captured, usage


def read_error(raw: msgspec.Raw) -> tuple[str, int | None]:
    """Message and status of an `error` object inside a stream."""
    try:
        kind = msgspec.json.decode(raw, type=_ErrorType).type
    except _UNREADABLE:
        kind = ""
    message = provider_message(bytes(raw)) or "the provider failed inside its answer"
    return message, ERROR_STATUS.get(kind)
