"""One attempt until its answer begins: the call, its status, and the first bytes that say something.

What fails up to here may be tried again elsewhere; what is returned has begun, so nothing else is tried after it.
"""

import dataclasses
from collections.abc import AsyncIterator

from chassis.telemetry import Span
from upstream.calls import send
from upstream.client import HttpCall, UpstreamClient, UpstreamResponse
from upstream.openai.errors import error_failure
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.sandbox.provider import Sandbox
from upstream.usage import Answer, StreamReader
from upstream.whole_signs import with_whole_signs

MAX_ANSWER_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """A stream that has begun. `head` is what of it can be relayed so far."""

    route: Route
    span: Span
    response: UpstreamResponse
    chunks: AsyncIterator[bytes]
    reader: StreamReader
    head: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WholeAnswer:
    """A whole answer that has come."""

    route: Route
    span: Span
    answer: Answer


class Providers:
    """The ways to a provider: over the network, or the sandbox in this process."""

    def __init__(self, *, client: UpstreamClient, sandbox: Sandbox) -> None:
        self._client = client
        self._sandbox = sandbox

    async def send(self, route: Route, call: HttpCall) -> UpstreamResponse:
        """A successful answer whose head has come; the caller closes it. Raises AttemptFailed."""
        return await send(route, call, client=self._client, sandbox=self._sandbox)


async def read_whole(response: UpstreamResponse) -> bytes:
    """The whole body, bounded; the response is closed on every way out. Raises AttemptFailed."""
    try:
        return with_whole_signs(await response.read(MAX_ANSWER_BYTES))
    finally:
        response.close()


async def begin_stream(response: UpstreamResponse, reader: StreamReader) -> tuple[AsyncIterator[bytes], bytes]:
    """Reads until something of the answer itself was seen; what may be relayed of it. Raises AttemptFailed."""
    chunks = response.chunks()
    head: list[bytes] = []
    try:
        async for data in chunks:
            head.append(reader.feed(data))
            if reader.has_content or reader.ended:
                break
        _check_begun(reader)
    except BaseException:
        response.close()
        raise
    return chunks, b"".join(head)


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
