"""The client's side of one request: what was sent to it, how long it kept us waiting, and how errors look to it.

uvicorn runs with a write buffer limit of zero, so a `send` waits until all earlier bytes have left this process:
`flush` is that wait without bytes of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol, runtime_checkable

from chassis.errors import Code, TollbridgeError
from services.edge.dialects import Dialect, ErrorView, RenderedError
from services.edge.http.awake import AwakeTime
from services.edge.http.limit_headers import LimitNote
from upstream.usage import BareStream

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

BLOCKED_S = 1.0
"""A write that waited so long, while this process ran, means that the client does not read."""
PROVIDER_WAIT_S = BLOCKED_S / 4
"""Waits between writes that come to no more than this were for what was there before, and not for the provider."""
REPLAY_PIECE = 256 << 10
JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
_STREAM_HEADERS: tuple[Header, ...] = (
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@runtime_checkable
class FailsItself(Protocol):
    """A stream that words its own failure, since its events are numbered."""

    def failing(self, view: ErrorView, body: object) -> bytes:
        """Its last bytes, for an error that looks so; `body` is what the dialect makes of it."""


class Reply:
    """What one client gets. Used by one task. A write that its client does not take ends with the connection, once
    `unread.py` gives it up.

    `stream` is what makes the bytes of a stream, once there is one. `limits` is what is said of the client's limits,
    once it is known who asks, if they have any; `key_id` is their key's. `error` is what it was refused or ended with.
    `awake` is this process's; `has_left` says whether the client is gone, before anybody is told.
    """

    __slots__ = (
        "_answerable_s",
        "_awake",
        "_dialect",
        "_has_events",
        "_loop",
        "_request_id",
        "_send",
        "_sending",
        "_write_ended_s",
        "error",
        "finished",
        "first_byte_s",
        "has_left",
        "key_id",
        "limits",
        "status",
        "stream",
    )

    def __init__(
        self,
        *,
        send: Send,
        dialect: Dialect,
        request_id: str,
        awake: AwakeTime,
        has_left: Callable[[], bool] = lambda: False,
    ) -> None:
        self._send = send
        self._awake = awake
        self._dialect = dialect
        self._request_id = request_id
        self._loop = asyncio.get_running_loop()
        self._sending = False
        self._write_ended_s = 0.0
        self._answerable_s = 0.0
        self._has_events = True
        self.has_left = has_left
        self.first_byte_s: float | None = None
        self.status: int | None = None
        self.error: Code | None = None
        self.key_id = ""
        self.finished = False
        self.stream: object = None
        self.limits: LimitNote | None = None

    @property
    def started(self) -> bool:
        """Whether a head was sent: from then on a failure can't be an HTTP status any more."""
        return self.status is not None

    @property
    def sending(self) -> bool:
        """Whether a write waits for the client now."""
        return self._sending

    def was_blocked(self) -> bool:
        """Whether the client kept a write waiting, and since then the provider was hardly waited for: what failed
        meanwhile failed because of the client. What had come before the failure is still read and written after it."""
        return self._loop.time() - self._write_ended_s < self._answerable_s

    def mark_first_byte(self) -> None:
        """Now the client's answer begins, if it has not yet."""
        if self.first_byte_s is None:
            self.first_byte_s = self._loop.time()

    async def look(self) -> None:
        """Learns what is to be said of limits, before a head that is still to come."""
        if self.limits is not None and not self.started:
            await self.limits.look()

    def _limited(self, headers: list[Header]) -> list[Header]:
        return headers if self.limits is None else [*headers, *self.limits.headers()]

    async def start_stream(self, extra: Sequence[Header]) -> None:
        """Sends the head of a stream, of events or of bare bytes."""
        if self.limits is not None:
            await self.look()
        self.status = 200
        kind = self.stream.content_type if isinstance(self.stream, BareStream) else EVENTS
        self._has_events = kind == EVENTS
        self.mark_first_byte()
        marks = self._dialect.name_request(self._request_id)
        headers = self._limited([(b"content-type", kind), *_STREAM_HEADERS, *marks, *extra])
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Sends bytes of a stream; returns when the next may be written."""
        self._answerable_s -= self._loop.time() - self._write_ended_s
        self._sending, began_s = True, self._awake.seconds
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            self._sending = False
            self._write_ended_s = self._loop.time()
            if self._awake.seconds - began_s >= BLOCKED_S:
                self._answerable_s = PROVIDER_WAIT_S

    async def flush(self) -> None:
        """Waits until every byte written so far has left this process, or the client is gone."""
        await self.write(b"")

    async def end(self, data: bytes) -> None:
        """Sends the last bytes of a stream. Their write begins before anything else can run."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": data})

    async def whole(self, body: bytes, extra: Sequence[Header], *, content_type: bytes = JSON) -> None:
        """Sends a whole answer. Its write begins before anything else can run."""
        self.finished = True
        self.status = 200
        self.mark_first_byte()
        head = whole_head(body, extra, content_type=content_type)
        headers = self._limited([*head, *self._dialect.name_request(self._request_id)])
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def replay(self, *, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Sends an answer that was given before."""
        await self.look()
        self.finished = True
        self.status = status
        self.mark_first_byte()
        marks = [*self._dialect.name_request(self._request_id), (b"idempotency-replayed", b"true")]
        head = self._limited([*headers, *marks])
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        for start in range(0, max(1, len(body)), REPLAY_PIECE):
            piece = body[start : start + REPLAY_PIECE]
            more = start + REPLAY_PIECE < len(body)
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    def serve_as(self, request_id: str, send: Send | None = None) -> None:
        """From now on this is the answer to that request; `send` is a way through somebody who listens."""
        self._request_id = request_id
        self._send = send or self._send

    @property
    def send(self) -> Send:
        """The way to the client."""
        return self._send

    def last_words(self, error: TollbridgeError) -> bytes:
        """The event that ends a stream which has begun; nothing where it has no events."""
        if not self._has_events:
            return b""
        if isinstance(self.stream, FailsItself):
            view = self._dialect.view(_told(error), request_id=self._request_id)
            return self.stream.failing(view, self._dialect.error_body(view))
        return self._dialect.stream_error(_told(error), request_id=self._request_id)

    def rendered(self, error: TollbridgeError) -> RenderedError:
        """The error as this client's dialect has it."""
        return self._dialect.render_error(_told(error), request_id=self._request_id)

    async def refuse(self, error: TollbridgeError) -> None:
        """Sends an error: as an answer, or as the event that ends a stream which has begun.

        A stream of bare bytes is left unfinished, so that its connection is cut: what was sent must not look whole.
        """
        self.error, self.key_id = _told(error).code, self.key_id or error.details.get("key_id", "")
        if self.started and not self._has_events:
            return
        if self.started:
            await self.end(self.last_words(error))
            return
        await self.look()
        self.finished = True
        rendered = self.rendered(error)
        self.status = rendered.status
        headers = self._limited(rendered.headers)
        await self._send({"type": "http.response.start", "status": rendered.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": rendered.body})


def whole_head(body: bytes, extra: Sequence[Header], *, content_type: bytes = JSON) -> list[Header]:
    """The headers of a whole answer, but for the request's id."""
    return [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *extra]


def _told(error: TollbridgeError) -> TollbridgeError:
    """What a client is told: that an owner did not answer in time is, seen from outside, that we are not available."""
    if error.code is not Code.DEADLINE_EXCEEDED:
        return error
    return TollbridgeError(Code.UNAVAILABLE, "This is not available right now.", retry_after_s=1)
