"""Usage events on their way to billing, and a batch of them as one message, made of the bytes that the spool has.

The bytes are those of `UsageBatch`: a repeated message field is each message's bytes behind its tag and length.
"""

import functools
from collections.abc import Callable, Iterable

import msgspec

from tollbridge.usage.v1 import usage_pb2

_EVENTS_TAG = bytes([usage_pb2.UsageBatch.EVENTS_FIELD_NUMBER << 3 | 2])
_SEVEN_BITS = 0x7F


class Pending(msgspec.Struct, eq=False, gc=False):
    """An event on its way; one that is asked about singly is tried again when billing doesn't know it by `due_s`.

    `twin` is what was on its way for the same end of the same request, from a process that had begun it. Thousands
    wait for seconds: so of an event only its bytes are kept, which are read again where all of it is needed.
    """

    payload: bytes
    key: tuple[str, int]  # what billing knows it by
    spool_key: bytes  # what our spool knows it by; empty for one of a former process
    hold_id: str
    charge_nano_usd: int
    closes_hold: bool
    former: Callable[[], None] | None
    twin: "Pending | None"
    tries: int = 0
    due_s: float = 0.0

    @property
    def event(self) -> usage_pb2.UsageRecorded:
        """All of it."""
        return usage_pb2.UsageRecorded.FromString(self.payload)

    @property
    def has_ours(self) -> bool:
        """Whether it, or one of its twins, is in our own spool."""
        each: Pending | None = self
        while each is not None and each.former is not None:
            each = each.twin
        return each is not None


class Batch(msgspec.Struct, eq=False):
    """What the bus took as one message at `sent_s`: asked about as one, twice at most; then each event for itself."""

    events: list[Pending]
    sent_s: float
    asked: bool = False


def encoded(batch_id: str, events: Iterable[bytes]) -> bytes:
    """The message: these serialised events, under the id that billing can be asked about them by."""
    parts = [usage_pb2.UsageBatch(id=batch_id).SerializeToString()]
    for event in events:
        parts += (_head(len(event)), event)
    return b"".join(parts)


@functools.lru_cache(4096)
def _head(length: int) -> bytes:
    """What stands before an event of so many bytes: few lengths are common."""
    low: list[int] = []
    while length > _SEVEN_BITS:
        low.append(length & _SEVEN_BITS | 0x80)
        length >>= 7
    return _EVENTS_TAG + bytes([*low, length])
