"""What is refused before it is a request: HTTP that two readers could understand in two ways, or that has no end.

A request that a proxy in front of us cuts elsewhere than we do smuggles another one in, so whatever leaves room for
that is answered 400 and the connection closed. The parser (llhttp, strict) refuses most of it; what it lets pass is
refused here: other transfer codings than chunked, more or fewer Host headers than one, versions that nobody speaks,
heads that are too large or don't come in time. These answers are in the openai dialect: no surface is known yet.
Answers that their client does not read have an end too (`unread.py`), and so has the number of connections.

While the process is leaving, each answer says that its connection ends, so that the next request goes elsewhere.
"""

import asyncio
import resource
from collections.abc import Callable, MutableMapping
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.dialects import DIALECTS, RenderedError
from services.edge.http.unread import Unread, UnreadRoom

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 128
HEAD_TIMEOUT_S = 30.0
"""How long the head of a request may take, from its first byte, or from the connection's beginning."""
IDLE_TIMEOUT_S = 75
"""How long a connection may stay between two requests."""
LAST_CALL_S = 10.0
"""How long a connection that has not been told of its end may still bring a request, once no new ones are taken.
SDKs let go of an idle connection after 5 s: closed before, one of their requests might be on its way."""
SECOND_LOOK_S = 0.05
"""A loop that was kept busy runs its timers before it reads what came meanwhile."""
MOST_CONNECTIONS = 16_384
"""Of one process; a request on one more is refused, but for who looks after the process."""
MOST_REFUSED = 1024
"""Connections beyond those, to tell them so; whoever comes then is cut off."""
OWN_FILES = 512
"""For the spool, for our own services and for whoever looks after the process."""
_CARE = (b"/livez", b"/readyz", b"/health", b"/metrics")
LINGER_S = 1.0
"""How long what still comes after a refusal is thrown away: closed at once, the client might not see why."""
_HAS_LEFT = "has_left"
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 413: b"Content Too Large", 503: b"Service Unavailable"}


class CarefulProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol over a transport that never keeps bytes back unnoticed.

    `_deadline_s` is when the client must have sent a whole head, unless a request is served; `_idle_bytes` came since
    the last piece of a body, or its end, in what has no other bound: heads, trailers, extensions of chunks.
    """

    _deadline_s: float
    _idle_bytes: int
    _in_head: bool
    _refusal: TollbridgeError | None
    _refused: bool
    _running: RequestResponseCycle | None
    _unread: Unread
    _watch: asyncio.TimerHandle

    def __init__(
        self,
        *,
        room: UnreadRoom,
        is_leaving: Callable[[], bool],
        **arguments: Any,  # noqa: ANN401  they are uvicorn's
    ) -> None:
        super().__init__(**arguments)
        self._room = room
        self._is_leaving = is_leaving
        self._last_call = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._deadline_s = self.loop.time() + HEAD_TIMEOUT_S
        self._idle_bytes = 0
        self._in_head = True
        self._refusal = None
        self._refused = False
        self._running = None
        self._unread = Unread(transport=transport, room=self._room, loop=self.loop)
        self._watch = self.loop.call_later(HEAD_TIMEOUT_S, self._look)
        if len(self.connections) > sum(most_connections()):
            self._refused = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        self._unread.end()
        self._leave()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        self._unread.end()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._idle_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or TollbridgeError(Code.INVALID_REQUEST, "This is no valid HTTP request."))
            return
        if self._idle_bytes > MAX_HEAD_BYTES:
            self._refuse(_too_large())

    def _feed(self, data: bytes) -> None:
        """An upgrade is an offer, and none is taken: the parser believes that what follows is no HTTP any more, so
        another one is given the same head without it."""
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            version = self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][_HAS_LEFT] = self.transport.is_closing
        self._in_head = True
        self._deadline_s = self.loop.time() + HEAD_TIMEOUT_S

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header: it comes after the checks of those
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self._refusal = _problem(self.headers, method=method, version=version, url=self.url)
        if len(self.connections) > most_connections()[0] and self.url not in _CARE:
            self._refusal = TollbridgeError(Code.OVERLOADED, "Too many connections. Please retry.", retry_after_s=1)
        if self._refusal is not None:
            raise httptools.HttpParserError(self._refusal.message)  # ends the parsing; what follows is no request
        if self.parser.should_upgrade():
            return  # it comes again
        self._in_head = False
        super().on_headers_complete()
        if self._is_leaving():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._in_head:
            return
        self._idle_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # uvicorn's own timer ends with the next byte, whatever it is.
        self._deadline_s = self.loop.time() + (HEAD_TIMEOUT_S if self._in_head else IDLE_TIMEOUT_S)
        if self._last_call:
            self._end_soon()

    def shutdown(self) -> None:
        """No new connections are taken. This one ends with the next answer that can still say so, or soon without.

        On one that is new, or whose last answer promised to keep it, a request may be on its way: closing resets it.
        """
        running = self._served()
        if not self._is_leaving() or (running is not None and not running.response_started):
            super().shutdown()
            return
        self._last_call = True
        if running is None:
            self._end_soon()

    def _end_soon(self) -> None:
        self._deadline_s = min(self._deadline_s, self.loop.time() + LAST_CALL_S)
        self._watch.cancel()
        self._watch = self.loop.call_later(LAST_CALL_S, self._look)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, error: TollbridgeError) -> None:
        self._refused = True
        running = self._served()
        if running is not None and (running.response_started or not running.more_body):
            self.transport.close()  # this would be read as its answer, or as a part of it
            return
        self._leave()  # if a request runs, its own body is what can't be read, and this is its answer
        self.transport.write(_written(DIALECTS["openai"].render_error(error, request_id=str(uuid7()))))
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _served(self) -> RequestResponseCycle | None:
        """The request that runs; uvicorn's `cycle` is the last one that came, which may wait behind it."""
        return None if self._running is None or self._running.response_complete else self._running

    def _leave(self) -> None:
        """Tells the request that runs that nobody listens any more."""
        running = self._served()
        if running is not None:
            running.disconnected = True
            running.message_event.set()

    def _look(self, again: bool = False) -> None:
        """One lazy timer a connection, not one a request."""
        left_s = HEAD_TIMEOUT_S if self._served() is not None else self._deadline_s - self.loop.time()
        if left_s > 0:
            self._watch = self.loop.call_later(min(left_s, HEAD_TIMEOUT_S), self._look)
        elif again:
            self.transport.close()
        else:
            self._watch = self.loop.call_later(SECOND_LOOK_S, self._look, True)


def has_left_of(scope: MutableMapping[str, Any]) -> Callable[[], bool]:
    """What says whether the client of a request is gone: its connection knows it a few turns before anybody is told."""
    has_left: Callable[[], bool] = scope["state"][_HAS_LEFT]
    return has_left


def most_connections() -> tuple[int, int]:
    """How many are served, and how many more are told that they are not.

    No more than leaves each one that is served a file for its provider: a process that may open no more can't keep its
    accounts either.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS, MOST_REFUSED
    refused = min(MOST_REFUSED, files // 16)
    return min(MOST_CONNECTIONS, (files - min(OWN_FILES, files // 4) - refused) // 2), refused


def _problem(headers: list[tuple[bytes, bytes]], *, method: bytes, version: str, url: bytes) -> TollbridgeError | None:
    """Why this head is no head of a request."""
    if method == b"CONNECT":
        return TollbridgeError(Code.INVALID_REQUEST, "This is no proxy.")
    if version not in ("1.0", "1.1"):
        return TollbridgeError(Code.INVALID_REQUEST, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if len(headers) > MAX_HEADERS or len(url) + sum(len(n) + len(v) + 4 for n, v in headers) > MAX_HEAD_BYTES:
        return _too_large()
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            return TollbridgeError(Code.INVALID_REQUEST, "The only transfer coding understood here is chunked.")
    if hosts > 1 or (not hosts and version == "1.1"):
        return TollbridgeError(Code.INVALID_REQUEST, "A request must have one Host header.")
    return None


def _too_large() -> TollbridgeError:
    message = f"The headers are larger than {MAX_HEAD_BYTES >> 10} KiB, or more than {MAX_HEADERS}."
    return TollbridgeError(Code.REQUEST_TOO_LARGE, message)


def _written(answer: RenderedError) -> bytes:
    head = [b"HTTP/1.1 %d %s" % (answer.status, _REASONS.get(answer.status, b"Error"))]
    head += [b"%s: %s" % header for header in (*answer.headers, (b"connection", b"close"))]
    return b"\r\n".join([*head, b"", answer.body])
