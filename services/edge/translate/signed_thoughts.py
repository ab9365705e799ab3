"""Thoughts of earlier turns that Anthropic can read: those that it has signed.

Thoughts of another provider's model come back to us without a signature, or with an empty one (`messages_over_chat`).
A conversation that goes on at Anthropic, after a fail-over or with another model, would be refused for them; so they
are left out there.
"""

from collections.abc import Mapping

import msgspec

_THINKING = b'"thinking"'
_MESSAGES = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_BLOCKS = msgspec.json.Decoder(list[msgspec.Raw])


class _Thought(msgspec.Struct, frozen=True):
    type: object = None
    signature: object = None


_THOUGHT = msgspec.json.Decoder(_Thought)


def with_signed_thoughts(fields: Mapping[str, object]) -> Mapping[str, object]:
    """The fields of a Messages request; the same bytes where nothing has to go, also within what stays."""
    messages = fields.get("messages")
    if not isinstance(messages, msgspec.Raw) or _THINKING not in bytes(messages):
        return fields
    given = _MESSAGES.decode(messages)
    kept = [_signed(message) for message in given]
    if all(now is before for now, before in zip(kept, given, strict=True)):
        return fields
    return {**fields, "messages": [message for message in kept if message is not None]}


def _signed(message: dict[str, msgspec.Raw]) -> Mapping[str, object] | None:
    """The message without such thoughts, itself if there are none; None when it was nothing else."""
    content = message.get("content", msgspec.Raw(b""))
    if bytes(memoryview(content)[:1]) != b"[":
        return message
    blocks = _BLOCKS.decode(content)
    kept = [block for block in blocks if not _is_unsigned(block)]
    if len(kept) == len(blocks):
        return message
    return {**message, "content": kept} if kept else None


def _is_unsigned(block: msgspec.Raw) -> bool:
    if _THINKING not in bytes(block):
        return False
    thought = _THOUGHT.decode(block)
    return thought.type == "thinking" and not thought.signature
