"""Ids of earlier calls as Anthropic takes them, in requests that otherwise travel to it as they came.

Another provider's model may have made a call under an id such as `functions.look:0` (`messages_over_chat` hands it out
as it is, since that provider wants it back). A conversation that goes on at Anthropic would be refused for it.
"""

import re
from collections.abc import Mapping

import msgspec

from services.edge.translate.narrow_names import tool_use_id

_NAMES = (b'"id"', b'"tool_use_id"')
_STRANGE = re.compile(rb'\s*+:\s*+"[a-zA-Z0-9_-]*+[^a-zA-Z0-9_"-]')
_MOST_LOOKS = 10_000
_MESSAGES = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_BLOCKS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_FIELDS = {b'"tool_use"': "id", b'"tool_result"': "tool_use_id"}


def with_plain_ids(fields: Mapping[str, object]) -> Mapping[str, object]:
    """The fields of a Messages request; the same bytes where all ids are plain, also within what is not changed."""
    given = fields.get("messages")
    messages = msgspec.json.encode(given) if isinstance(given, list) else given
    if not isinstance(messages, (bytes, msgspec.Raw)) or not _may_be_strange(messages):
        return fields
    return {**fields, "messages": [_plain(message) for message in _MESSAGES.decode(messages)]}


def _may_be_strange(json: bytes | msgspec.Raw) -> bool:
    """Whether a field that is named as an id is has a strange one, or there are too many such names to look at."""
    text = bytes(json)
    for name in _NAMES:
        at = text.find(name)
        for _ in range(_MOST_LOOKS):
            if at < 0:
                break
            if _STRANGE.match(text, at + len(name)):
                return True
            at = text.find(name, at + len(name))
        else:
            return True
    return False


def _plain(message: dict[str, msgspec.Raw]) -> dict[str, object]:
    content = message.get("content", msgspec.Raw(b""))
    if bytes(memoryview(content)[:1]) != b"[" or not _may_be_strange(content):
        return {**message}
    return {**message, "content": [_with_plain_id(block) for block in _BLOCKS.decode(content)]}


def _with_plain_id(block: dict[str, msgspec.Raw]) -> dict[str, object]:
    name = _FIELDS.get(bytes(block.get("type", b"")), "")
    return {**block, name: tool_use_id(msgspec.json.decode(block[name], type=str))} if name in block else {**block}
