"""One attempt until its answer begins: the call, its status, and the first bytes that say something.

What fails up to here may be tried again elsewhere; what is returned has begun, so nothing else is tried after it.
"""

import dataclasses
import functools
import time
from collections.abc import AsyncIterator

import structlog

from chassis.telemetry import Span
from services.edge.bodies.request_body import aside
from services.edge.paid.bare_streams import BareStreams, is_about_usage
from services.edge.paid.paid_request import PaidRequest
from services.edge.wires.wire import Wire
from upstream.calls import send
from upstream.client import HttpCall, UpstreamClient, UpstreamResponse
from upstream.openai.errors import error_failure
from upstream.outcome import AttemptFailed, ProviderMisbehaved
from upstream.route import Route
from upstream.sandbox.provider import Sandbox
from upstream.usage import Answer, BareStream, StreamReader, UsageLimits
from upstream.whole_signs import with_whole_signs

MAX_ANSWER_BYTES = 64 << 20
MAX_HEAD_BYTES = 8 << 20
"""How much may be relayed of what comes before an answer's first word: comments, roles, signatures."""
LEAST_STREAM_BYTES = 64 << 20
BYTES_PER_TOKEN = 4096
"""A chunk of one token, with twenty rivals and their likelihoods."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """A stream that has begun, at `began_s` (monotonic). `head` is what of it can be relayed so far."""

    route: Route
    span: Span
    response: UpstreamResponse
    chunks: AsyncIterator[bytes]
    reader: StreamReader
    head: bytes
    began_s: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WholeAnswer:
    """A whole answer that has come, at `began_s` (monotonic)."""

    route: Route
    span: Span
    answer: Answer
    began_s: float = dataclasses.field(default_factory=time.monotonic)


class Providers:
    """The ways to a provider: over the network, or the sandbox in this process."""

    def __init__(self, *, client: UpstreamClient, sandbox: Sandbox) -> None:
        self._client = client
        self._log = structlog.get_logger()
        self._sandbox = sandbox
        self._bare_streams = BareStreams()

    async def send(self, route: Route, call: HttpCall) -> UpstreamResponse:
        """A successful answer whose head has come; the caller closes it. Raises AttemptFailed."""
        return await send(route, call, client=self._client, sandbox=self._sandbox)

    async def ask(
        self, request: PaidRequest, wire: Wire, route: Route, *, max_tokens: int, request_id: str
    ) -> UpstreamResponse:
        """Sends the request over its wire.

        A provider that refuses `stream_options` is asked once more without, and later ones for a while at once so.
        """
        make = functools.partial(aside, request.body, wire.call, request, max_tokens=max_tokens, request_id=request_id)
        is_known = request.stream and self._bare_streams.holds(request, route)
        if not is_known:
            try:
                response = await self.send(route, await make(route))
            except AttemptFailed as failure:
                if not is_about_usage(failure, request, route):
                    raise
            else:
                if request.stream:
                    self._bare_streams.answered(route)
                return response
        bare = dataclasses.replace(route, without_stream_options=True)
        response = await self.send(bare, await make(bare))
        if not is_known:
            self._bare_streams.refused(route)
            self._log.warning("stream_options_refused", provider=route.provider_id, advice="stream_options: false")
        return response


async def read_whole(response: UpstreamResponse) -> bytes:
    """The whole body, bounded; the response is closed on every way out. Raises AttemptFailed."""
    try:
        return with_whole_signs(await response.read(MAX_ANSWER_BYTES))
    finally:
        response.close()


class _Bounded:
    """A stream's reads, until they are more than the answer can be."""

    __slots__ = ("_chunks", "_left_bytes")

    def __init__(self, chunks: AsyncIterator[bytes], *, most_bytes: int) -> None:
        self._chunks = chunks
        self._left_bytes = most_bytes

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await anext(self._chunks)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise ProviderMisbehaved("the provider's stream is longer than its answer can be")
        return data


async def begin_stream(
    response: UpstreamResponse, reader: StreamReader, *, limits: UsageLimits
) -> tuple[AsyncIterator[bytes], bytes]:
    """Reads until something of the answer itself was seen; what may be relayed of it. Raises AttemptFailed.

    All of the stream may be as long as an answer within `limits`, or as the sound that is asked for, generously.
    """
    most_bytes = LEAST_STREAM_BYTES + limits.max_output * BYTES_PER_TOKEN
    if isinstance(reader, BareStream):
        most_bytes += reader.most_bytes
    chunks = _Bounded(response.chunks(), most_bytes=most_bytes)
    head = bytearray()
    try:
        async for data in chunks:
            head += reader.feed(data)
            if reader.has_content or reader.ended:
                break
            if len(head) > MAX_HEAD_BYTES:
                raise ProviderMisbehaved("the provider's stream does not come to its answer")
        _check_begun(reader)
    except BaseException:
        response.close()
        raise
    return chunks, bytes(head)


def _check_begun(reader: StreamReader) -> None:
    if reader.has_content:
        return
    captured = reader.finish()
    if captured.error is not None:
        raise error_failure(captured.error, captured.error_status)
    if not captured.complete:
        raise ProviderMisbehaved("the provider's stream ended before it began")
    if captured.tokens is None and not captured.finish_reason:
        raise ProviderMisbehaved("the provider's stream is an end without an answer")
