"""Which call a body would be, when only its price is asked: told by its fields, and by what its model is for.

In this order: `messages` is a chat, or Anthropic's Messages where something in it is theirs alone; `input` is a
response, or embeddings, speech or a moderation with a model for these; `prompt` is an image with a model for these,
else a legacy completion. What has none of them is read as a chat, whose refusal says what is missing. Bodies that two
calls read alike cost the same in both.
"""

from collections.abc import Collection, Iterable, Mapping

from services.edge.paid.operation import Operation
from services.edge.paid.operations import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, MODERATIONS, RESPONSES, SPEECH

_BY_INPUT = {operation.category: operation for operation in (EMBEDDINGS, SPEECH)}
LONG_JOBS = ("image", "video")
_MESSAGES_FIELDS = ("system", "stop_sequences", "mcp_servers", "container")
_MESSAGES_BLOCKS = frozenset({"image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"})


def called(
    body: Mapping[str, object],
    headers: Iterable[tuple[bytes, bytes]],
    *,
    category: str | None,
    capabilities: Collection[str] = (),
) -> Operation | None:
    """The paid endpoint; None for a long job. `category` is what the model is for, None when nobody knows it."""
    if "messages" in body:
        return MESSAGES if _is_anthropics(body, headers) else CHAT
    if "input" in body:
        only_moderates = "moderation" in capabilities and "chat" not in capabilities
        return MODERATIONS if only_moderates else _BY_INPUT.get(category or "", RESPONSES)
    if "prompt" in body:
        return None if category in LONG_JOBS else COMPLETIONS
    return CHAT


def _is_anthropics(body: Mapping[str, object], headers: Iterable[tuple[bytes, bytes]]) -> bool:
    if any(name == b"anthropic-version" for name, _ in headers) or any(name in body for name in _MESSAGES_FIELDS):
        return True
    if any("input_schema" in tool for tool in _objects(body.get("tools"))):
        return True
    contents = [message.get("content") for message in _objects(body.get("messages"))]
    kinds = [block.get("type") for content in contents for block in _objects(content)]
    return any(isinstance(kind, str) and kind in _MESSAGES_BLOCKS for kind in kinds)


def _objects(value: object) -> list[dict[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
