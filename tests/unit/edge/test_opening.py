"""Until an answer begins its stream is kept, and what is kept has a bound."""

from collections.abc import AsyncIterator

import pytest

from services.edge.paid.opening import MAX_HEAD_BYTES, begin_stream
from upstream.openai.chat_stream import ChatStream
from upstream.outcome import ProviderMisbehaved
from upstream.usage import UsageLimits

LIMITS = UsageLimits(max_input=10, max_output=10)


class Chatter:
    """An answer that only says that it is coming."""

    status = 200

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.sent_bytes = 0
        self.closed = False

    async def read(self, max_bytes: int) -> bytes:
        """Not asked."""
        raise NotImplementedError

    async def chunks(self) -> AsyncIterator[bytes]:
        """Chunks without a word for ever."""
        empty = b'data: {"choices":[],"padding":"%b"}\n\n' % (b"x" * (1 << 20))
        while self.sent_bytes < 4 * MAX_HEAD_BYTES:
            self.sent_bytes += len(empty)
            yield empty

    def close(self) -> None:
        """Nobody listens any more."""
        self.closed = True


async def test_a_stream_that_never_begins_fills_no_memory() -> None:
    """It is the provider's failure, and the next account is tried."""
    response = Chatter()
    with pytest.raises(ProviderMisbehaved):
        await begin_stream(response, ChatStream(model="m", include_usage=False), limits=LIMITS)
    assert response.closed
    assert response.sent_bytes < 2 * MAX_HEAD_BYTES
