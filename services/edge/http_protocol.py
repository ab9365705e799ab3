"""What is refused before it is a request: HTTP that two readers could understand in two ways, or that has no end.

A request that a proxy in front of us cuts elsewhere than we do smuggles another one in, so whatever leaves room for
that is answered 400 and the connection closed. The parser (llhttp, strict) refuses most of it; what it lets pass is
refused here: other transfer codings than chunked, more or fewer Host headers than one, versions that nobody speaks,
heads that are too large or don't come in time. These answers are in the openai dialect: no surface is known yet.
"""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.dialects import DIALECTS, RenderedError

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 128
HEAD_TIMEOUT_S = 30.0
"""How long the head of a request may take, from its first byte, or from the connection's beginning."""
LINGER_S = 1.0
"""How long what still comes after a refusal is thrown away: closed at once, the client might not see why."""
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 413: b"Content Too Large"}


class CarefulProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol over a transport that never keeps bytes back unnoticed."""

    _head_since_s: float | None
    _head_bytes: int
    _refusal: TollbridgeError | None
    _refused: bool
    _watch: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self._head_since_s = self.loop.time()
        self._head_bytes = 0
        self._refusal = None
        self._refused = False
        self._watch = self.loop.call_later(HEAD_TIMEOUT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self._head_since_s is None or self._refused:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_since_s = self.loop.time()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._head_since_s = None
        self._refusal = _problem(self.headers, version=self.parser.get_http_version(), url=self.url)
        if self._refusal is not None:
            raise httptools.HttpParserError(self._refusal.message)  # ends the parsing; what follows is no request
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request; uvicorn calls it when the parser has given up."""
        self._refuse(self._refusal or TollbridgeError(Code.INVALID_REQUEST, msg))

    def _refuse(self, error: TollbridgeError) -> None:
        self._refused = True
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # in the middle of an answer this would be read as a part of it
            return
        self.transport.write(_written(DIALECTS["openai"].render_error(error, request_id=str(uuid7()))))
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _look(self) -> None:
        """One lazy timer a connection, not one a request."""
        since_s, now_s = self._head_since_s, self.loop.time()
        if since_s is None:
            self._watch = self.loop.call_later(HEAD_TIMEOUT_S, self._look)
            return
        if now_s - since_s < HEAD_TIMEOUT_S:
            self._watch = self.loop.call_later(HEAD_TIMEOUT_S - (now_s - since_s), self._look)
            return
        self.transport.close()


def _problem(headers: list[tuple[bytes, bytes]], *, version: str, url: bytes) -> TollbridgeError | None:
    """Why this head is no head of a request."""
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
