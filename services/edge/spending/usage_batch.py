"""A batch of usage events as one message of the bus, made of the bytes that the spool has of each event.

The bytes are those of `UsageBatch`: a repeated message field is each message's bytes behind its tag and length.
"""

from collections.abc import Iterable

from tollbridge.usage.v1 import usage_pb2

_EVENTS_TAG = bytes([usage_pb2.UsageBatch.EVENTS_FIELD_NUMBER << 3 | 2])
_SEVEN_BITS = 0x7F


def encoded(batch_id: str, events: Iterable[bytes]) -> bytes:
    """The message: these serialised events, under the id that billing can be asked about them by."""
    parts = [usage_pb2.UsageBatch(id=batch_id).SerializeToString()]
    for event in events:
        parts += (_EVENTS_TAG, _varint(len(event)), event)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    low: list[int] = []
    while value > _SEVEN_BITS:
        low.append(value & _SEVEN_BITS | 0x80)
        value >>= 7
    return bytes([*low, value])
