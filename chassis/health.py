"""Liveness, readiness and metrics over the smallest HTTP server that a kubelet and Prometheus need.

GET only, one request a connection, 8 KiB of head, 5 seconds, 64 connections: it is no place for anything else.
"""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

TIMEOUT_S = 5.0
MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 64
_TEXT = "text/plain; charset=utf-8"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class HealthServer:
    """GET /livez (200 while the loop turns), /readyz (503 with the reason when `ready` gives one), /metrics."""

    def __init__(self, *, bind: str, registry: CollectorRegistry, ready: Callable[[], str | None]) -> None:
        self._bind = bind
        self._registry = registry
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> str:
        """Listens; returns the bound "host:port"."""
        host, _, port = self._bind.rpartition(":")
        self._server = await asyncio.start_server(self._serve, host.strip("[]"), int(port), limit=MAX_HEAD_BYTES)
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stops listening; answers under way end by themselves within 5 seconds."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open > MAX_CONNECTIONS:
                return
            async with asyncio.timeout(TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(*self._answer(head)))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return  # a slow, oversized or vanished scraper gets nothing
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> tuple[int, str, bytes]:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3:
            return 400, _TEXT, b"bad request\n"
        if words[0] != b"GET":
            return 405, _TEXT, b"GET only\n"
        match words[1].split(b"?", 1)[0]:
            case b"/livez":
                return 200, _TEXT, b"ok\n"
            case b"/readyz":
                reason = self._ready()
                return (200, _TEXT, b"ok\n") if reason is None else (503, _TEXT, reason.encode() + b"\n")
            case b"/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        return 404, _TEXT, b"not found\n"


def _response(status: int, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
