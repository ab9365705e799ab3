"""CORS: which web pages may call the public API from a browser. The admin API and edge's own pages are never offered.

Callers prove themselves with a key that a page has to set itself, never with a cookie, so a page of anybody's gets
nothing here that it could not get without a browser: every origin is allowed unless the config says less, and
credentials (cookies) are never allowed. Preflights are answered before anything else is asked: they carry no key.
"""

import dataclasses
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

ANYBODY = "*"
PREFLIGHT_KEPT_S = 7200
"""As long as the strictest of the common browsers keeps one."""
_ASKED = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")
METHODS = b"GET, POST, PUT, PATCH, DELETE"
_RATE_LIMITS = [
    f"x-ratelimit-{word}{ending}" for ending in ("", "-requests", "-tokens") for word in ("limit", "remaining", "reset")
]
EXPOSED = ", ".join(
    [
        "x-request-id",
        "request-id",
        "retry-after",
        "x-should-retry",
        *_RATE_LIMITS,
        "x-tollbridge-max-tokens",
        "x-tollbridge-dropped-tools",
        "x-tollbridge-dropped-fields",
        "idempotency-replayed",
        "content-disposition",
        "accept-ranges",
        "content-range",
        "etag",
        "location",
    ]
).encode()
"""What a page may read beside the few headers that every page may."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cors:
    """The origins that may call: none, some, or with `*` every one."""

    origins: frozenset[str]

    @property
    def varies(self) -> bool:
        """Whether answers differ by origin, so that a cache must not give one's to another."""
        return bool(self.origins) and ANYBODY not in self.origins

    def allowed(self, headers: Headers) -> bytes:
        """What to answer as the allowed origin; empty for a call of no page, or of one that may not."""
        origin = _value(headers, b"origin")
        if not origin or not self.origins:
            return b""
        if ANYBODY in self.origins:
            return ANYBODY.encode()
        return origin if origin.decode("latin-1") in self.origins else b""


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser asks if a page's call may be sent."""
    return method == "OPTIONS" and bool(_value(headers, b"access-control-request-method"))


def preflight(origin: bytes, headers: Headers) -> Headers:
    """The headers of the answer (204) to a preflight from an allowed origin."""
    asked = _value(headers, b"access-control-request-headers")
    allowed = asked if _ASKED.fullmatch(asked) else b"authorization, content-type"
    return [
        *_origin(origin),
        (b"access-control-allow-methods", METHODS),
        # named one by one, since `*` doesn't cover Authorization
        (b"access-control-allow-headers", allowed),
        (b"access-control-max-age", str(PREFLIGHT_KEPT_S).encode()),
    ]


def with_origin(send: Send, origin: bytes) -> Send:
    """The way to a page of an allowed origin, which may then read the answer."""
    return _adding(send, [*_origin(origin), (b"access-control-expose-headers", EXPOSED)])


def with_vary(send: Send) -> Send:
    """The way to everybody else, where answers to some origins say more."""
    return _adding(send, [(b"vary", b"origin")])


def _adding(send: Send, own: Headers) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        await send(message)

    return sending


def _origin(origin: bytes) -> Headers:
    said = [(b"access-control-allow-origin", origin)]
    return said if origin == ANYBODY.encode() else [*said, (b"vary", b"origin")]


def _value(headers: Headers, wanted: bytes) -> bytes:
    return next((value for name, value in headers if name.lower() == wanted), b"")
