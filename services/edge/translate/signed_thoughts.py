"""Thoughts of earlier turns that Anthropic can read: those that it has signed.

Thoughts of another provider's model come back to us without a signature (`messages_over_chat`). A conversation that
goes on at Anthropic, after a fail-over or with another model, would be refused for them; so they are left out there.
"""

import re
from collections.abc import Mapping

import msgspec

_UNSIGNED = re.compile(rb'"signature"\s*:\s*""')
_MESSAGES = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_BLOCKS = msgspec.json.Decoder(list[msgspec.Raw])


class _Thought(msgspec.Struct, frozen=True):
    type: str
    signature: str | None = None


_THOUGHT = msgspec.json.Decoder(_Thought)


def with_signed_thoughts(fields: Mapping[str, object]) -> Mapping[str, object]:
    """The fields of a Messages request; the same bytes where nothing has to go, also within what stays."""
    messages = fields.get("messages")
    if not isinstance(messages, msgspec.Raw) or not _UNSIGNED.search(bytes(messages)):
        return fields
    kept = [message for message in map(_signed, _MESSAGES.decode(messages)) if message is not None]
    return {**fields, "messages": kept}


def _signed(message: dict[str, msgspec.Raw]) -> dict[str, object] | None:
    """The message without such thoughts; None when it was nothing else."""
    content = message.get("content", msgspec.Raw(b""))
    if bytes(memoryview(content)[:1]) != b"[":
        return {**message}
    blocks = _BLOCKS.decode(content)
    kept = [block for block in blocks if not _is_unsigned(block)]
    return {**message, "content": kept} if kept or not blocks else None


def _is_unsigned(block: msgspec.Raw) -> bool:
    if not _UNSIGNED.search(bytes(block)):
        return False
    thought = _THOUGHT.decode(block)
    return thought.type == "thinking" and not thought.signature
