"""The seam to the network: one HTTP call to a provider, over aiohttp.

Everything above it sees `HttpCall`, `UpstreamResponse` and `AttemptFailed` only, so that another client can take its
place. It asks for identity encoding and refuses any other, follows no redirect, keeps no cookie, and reads no proxy
setting from the environment; aiohttp sets TCP_NODELAY by itself, which a test holds. Its timeouts are one lazy watch
per answer, not a timer per read: a token chunk costs one clock reading. After a stop of ours they look twice, but for
the time to connect, which is aiohttp's.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import aiohttp
from yarl import URL

from upstream.outcome import AnswerTooLarge, AttemptFailed, Outcome, ProviderMisbehaved, TotalTimeReached

KEEP_ALIVE_S = 30.0
DNS_CACHE_S = 10
SECOND_LOOK_S = 0.05
"""A loop that stood still, or was kept busy, runs its timers before it reads what came meanwhile."""
_OWN_HEADERS = {"accept-encoding": "identity", "user-agent": "tollbridge"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: to connect (waiting for a free connection included), from the call to the first byte of the answer's
    body, between two reads, altogether."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """One HTTP request. The headers hold the credential, so repr leaves them out.

    `is_rare` says that many providers and models don't have this endpoint: that it is missing says nothing about them.
    """

    method: str
    url: str
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    body: bytes = dataclasses.field(repr=False)
    is_rare: bool = False


class UpstreamResponse(Protocol):
    """An answer whose head has come. Whoever got it owns it, and calls `close` on every way out."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names are case-insensitive."""

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises AttemptFailed; AnswerTooLarge when it is larger than `max_bytes`."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, one item per socket read. Raises AttemptFailed.

        A cancelled read loses no bytes: another task may go on with the same iterator (that is how a drain begins).
        """

    def close(self) -> None:
        """Aborts what is still running, at once. May be called any number of times; after the last byte it is free."""


class UpstreamClient:
    """One pool of connections to all providers, for one event loop."""

    def __init__(self, *, max_connections: int = 16384) -> None:
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Opens the pool; connects to nothing yet."""
        connector = aiohttp.TCPConnector(
            limit=self._max_connections,
            ttl_dns_cache=DNS_CACHE_S,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=_OWN_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        """Closes every connection, running or not."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, call: HttpCall, *, timeouts: Timeouts) -> UpstreamResponse:
        """Sends one call and waits for the head of its answer, whatever its status. Raises AttemptFailed."""
        if self._session is None:
            raise AttemptFailed(Outcome.CANCELLED, "the client is not started")
        loop, patience = asyncio.get_running_loop(), asyncio.timeout(None)
        started_s = loop.time()
        watch = loop.call_later(min(timeouts.first_byte_s, timeouts.total_s), _look_twice, loop, patience)
        try:
            async with patience:
                response = await self._session.request(
                    call.method,
                    URL(call.url, encoded=True),
                    data=call.body,
                    headers=call.headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect_s),
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _failure(error) from error
        finally:
            watch.cancel()
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            response.close()
            raise ProviderMisbehaved("the provider sent an encoded body that was not asked for")
        return _Response(response, timeouts=timeouts, started_s=started_s)


class _Response:
    """An aiohttp answer under the seam's watch.

    The watch is one timer that looks at the time of the last read when it fires, and is set again for the rest: no
    timer is touched per read. When it finds the answer too slow, twice, it puts the failure into the stream and closes.
    """

    __slots__ = (
        "_content",
        "_deadline_s",
        "_eof",
        "_last_read_s",
        "_loop",
        "_response",
        "_taken_bytes",
        "_timeouts",
        "_watch",
    )

    def __init__(self, response: aiohttp.ClientResponse, *, timeouts: Timeouts, started_s: float) -> None:
        self._response = response
        self._content = response.content
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._deadline_s = started_s + timeouts.total_s
        # Until the first byte of the body has come, what counts is the time since the call.
        self._last_read_s = started_s + timeouts.first_byte_s - timeouts.idle_s
        self._taken_bytes = 0
        self._eof = False
        self._watch: asyncio.TimerHandle | None = None
        self._look()

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async for part in self:
                size += len(part)
                if size > max_bytes:
                    raise AnswerTooLarge(f"the provider's answer is larger than {max_bytes} bytes")
                parts.append(part)
        finally:
            self.close()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._eof:
            raise StopAsyncIteration
        try:
            data = await self._content.readany()
        except (aiohttp.ClientError, OSError, AttemptFailed) as error:
            self.close()
            raise _failure(error) from error
        if data:
            self._last_read_s = self._loop.time()
            self._taken_bytes += len(data)
            return data
        self._end()
        raise StopAsyncIteration

    def close(self) -> None:
        self._end()
        self._response.close()

    def _end(self) -> None:
        self._eof = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self, again: bool = False) -> None:
        """Fires the timeout that is due, or sets the timer for the next one that can be."""
        now_s = self._loop.time()
        if self._content.total_bytes > self._taken_bytes:
            self._last_read_s = now_s  # bytes wait for our reader: it is slow, not the provider
        idle_until_s = self._last_read_s + self._timeouts.idle_s
        due_s = min(idle_until_s, self._deadline_s)
        if now_s < due_s:
            self._watch = self._loop.call_at(due_s, self._look)
        elif not again:
            self._watch = self._loop.call_later(SECOND_LOOK_S, self._look, True)
        elif idle_until_s < self._deadline_s:  # also when both are over by now: what it failed at first counts
            self._expire(AttemptFailed(Outcome.TIMED_OUT, "the provider stopped sending"))
        else:
            self._expire(TotalTimeReached(Outcome.TIMED_OUT, "the provider's total time is over"))

    def _expire(self, failure: AttemptFailed) -> None:
        self._watch = None
        if self._content.is_eof() or self._content.exception() is not None:
            return  # it ended before, well or not, and our reader is still to learn of it
        self._content.set_exception(failure)
        self._response.close()


def _look_twice(loop: asyncio.AbstractEventLoop, patience: asyncio.Timeout) -> None:
    """The head's time is over, unless it waits to be read."""
    patience.reschedule(loop.time() + SECOND_LOOK_S)


def _failure(error: BaseException) -> AttemptFailed:
    """What a client error means, in words without address or secret."""
    if isinstance(error, AttemptFailed):
        return error
    if isinstance(error, aiohttp.ClientResponseError):
        return ProviderMisbehaved("the provider's answer is not valid HTTP")
    for kinds, outcome, message in _MEANINGS:
        if isinstance(error, kinds):
            return AttemptFailed(outcome, message)
    return AttemptFailed(Outcome.UNREACHABLE, "the connection to the provider broke")


_MEANINGS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Outcome, str], ...] = (
    (TimeoutError, Outcome.TIMED_OUT, "the provider did not answer in time"),
    (aiohttp.ClientSSLError, Outcome.UNREACHABLE, "the provider's TLS certificate or handshake is not valid"),
    (aiohttp.ClientConnectorError, Outcome.UNREACHABLE, "no connection to the provider"),
    ((aiohttp.InvalidURL, ValueError), Outcome.UNREACHABLE, "the provider's address is not valid"),
)
