"""The `X-RateLimit` headers: what is left to a caller with limits, in every answer; and the numbers that some dialects
state also where nothing is limited."""

import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from chassis.errors import Code
from services.edge.limits.gate import Admitted
from services.edge.limits.limits import Limits
from services.edge.limits.terms import Figures, Kind, Terms

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

WINDOW_S = 60
UNLIMITED = b"1000000"
"""Said where there is no limit, to clients that expect a number."""
_REMAINING = b"x-ratelimit-remaining"
_ENDINGS = ((Kind.REQUESTS, b"-requests"), (Kind.TOKENS, b"-tokens"))


class LimitNote:
    """What one answer says of its caller's limits."""

    __slots__ = ("_limits", "_terms")

    def __init__(self, limits: Limits, terms: Terms) -> None:
        self._limits = limits
        self._terms = terms

    async def look(self) -> None:
        """Learns how much is left, unless that is known; raises nothing."""
        await self._limits.look(self._terms)

    def headers(self) -> list[Header]:
        """The headers, as things are known now."""
        figures, found = self._limits.figures(self._terms), list[Header]()
        for kind, ending in _ENDINGS:
            if kind in figures:
                found += _of_kind(figures[kind], ending)
        requests = figures.get(Kind.REQUESTS)
        if requests is not None:
            resets_at_s = math.ceil(time.time() + requests.reset_s)
            found += _three(b"", requests.limit, requests.remaining, str(resets_at_s))
        return found


class Told:
    """What is found out about a request's caller while it is served, and what it drew from their limits meanwhile.

    `key_id` is their key's, `refusal` why it was refused.
    """

    __slots__ = ("admitted", "key_id", "note", "refusal", "tokens")

    def __init__(self) -> None:
        self.note: LimitNote | None = None
        self.admitted: Admitted | None = None
        self.tokens = 0
        self.key_id = ""
        self.refusal: Code | None = None

    def end(self) -> None:
        """The request was answered; it has used as many tokens as it was taken for."""
        if self.admitted is not None:
            self.admitted.end(tokens=self.tokens)


def telling(send: Send, told: Told) -> Send:
    """The way to the client with the headers of a caller whose limits were found out meanwhile."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        note = told.note
        if note is not None and message["type"] == "http.response.start":
            await note.look()
            message = {**message, "headers": [*message.get("headers", ()), *note.headers()]}
        await send(message)

    return sending


def with_limits(send: Send) -> Send:
    """The way to the client with the headers of an unlimited caller, unless an answer has its own."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if all(name.lower() != _REMAINING for name, _ in headers):
                message = {**message, "headers": headers + _unlimited()}
        await send(message)

    return sending


def duration(seconds: float) -> str:
    """As OpenAI writes it: `0s`, `120ms`, `59s`, `1m0s`; never shorter than it is."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    whole = math.ceil(seconds)
    return f"{whole}s" if whole < WINDOW_S else f"{whole // 60}m{whole % 60}s"


def _of_kind(figures: Figures, ending: bytes) -> list[Header]:
    return _three(ending, figures.limit, figures.remaining, duration(figures.reset_s))


def _three(ending: bytes, limit: int, remaining: int, reset: str) -> list[Header]:
    return [
        (b"x-ratelimit-limit" + ending, str(limit).encode()),
        (b"x-ratelimit-remaining" + ending, str(remaining).encode()),
        (b"x-ratelimit-reset" + ending, reset.encode()),
    ]


def _unlimited() -> list[Header]:
    return _three(b"", int(UNLIMITED), int(UNLIMITED), str(int(time.time()) + WINDOW_S))
