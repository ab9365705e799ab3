"""The `X-RateLimit` headers of dialects that state them in every answer, also where nothing is limited."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WINDOW_S = 60
UNLIMITED = b"1000000"
"""Said where there is no limit, to clients that expect a number."""
_REMAINING = b"x-ratelimit-remaining"


def with_limits(send: Send) -> Send:
    """The way to the client with the headers of an unlimited caller, unless an answer has its own."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if all(name.lower() != _REMAINING for name, _ in headers):
                message = {**message, "headers": headers + _unlimited()}
        await send(message)

    return sending


def _unlimited() -> list[tuple[bytes, bytes]]:
    resets_at_s = int(time.time()) + WINDOW_S
    return [
        (b"x-ratelimit-limit", UNLIMITED),
        (_REMAINING, UNLIMITED),
        (b"x-ratelimit-reset", str(resets_at_s).encode()),
    ]
