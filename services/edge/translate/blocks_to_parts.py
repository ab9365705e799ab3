"""Anthropic's content blocks as what OpenAI's messages are made of: texts, parts, tool calls and results."""

from collections.abc import Mapping
from typing import Any

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.translate.narrow_names import call_id, tool_name

Blocks = list[dict[str, Any]]
_IMAGES_FOLLOW = "What this tool returned is shown in the next message."
_ENCODER = msgspec.json.Encoder()


def plain_text(content: str | Blocks, where: str) -> str:
    """Content that may hold text only."""
    if isinstance(content, str):
        return content
    for number, block in enumerate(content):
        if block.get("type") != "text":
            raise invalid(f"{where}[{number}].type", "only text can stand here")
    return "\n\n".join(block["text"] for block in content if block["text"])


def assistant_message(blocks: Blocks, where: str) -> dict[str, object]:
    """An earlier answer of the model's."""
    texts, calls, thoughts = [], [], []
    for number, block in enumerate(blocks):
        kind = block.get("type")
        if kind == "text":
            texts.append(block["text"])
        elif kind == "tool_use":
            function = {"name": tool_name(block["name"]), "arguments": _ENCODER.encode(block["input"]).decode()}
            calls.append({"id": call_id(block["id"]), "type": "function", "function": function})
        elif kind == "thinking":
            thoughts += [] if block.get("signature") else [block["thinking"]]
        elif kind != "redacted_thinking":
            raise _unsayable(f"{where}[{number}].type", kind)
    text = "".join(texts)
    message: dict[str, object] = {"role": "assistant", "content": None if calls and not text else text}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def user_messages(blocks: Blocks, where: str) -> list[dict[str, object]]:
    """A user's turn: the results of tools first, as chat has it, a message each; then all else as one message."""
    results: list[dict[str, object]] = []
    parts: Blocks = []
    for number, block in enumerate(blocks):
        at = f"{where}[{number}]"
        if block.get("type") == "tool_result":
            result, images = _tool_result(block, f"{at}.content")
            results.append(result)
            parts += images
        else:
            parts += _parts(block, at)
    if not parts:
        return results
    only_text = all(part["type"] == "text" for part in parts)
    content = "\n\n".join(part["text"] for part in parts) if only_text else parts
    return [*results, {"role": "user", "content": content}]


def _tool_result(block: Mapping[str, Any], where: str) -> tuple[dict[str, object], Blocks]:
    """The result's text, and what of it is no text: chat's tools return text only, so that follows in a user's turn."""
    content = block.get("content") or ""
    inside = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts = [part for number, each in enumerate(inside) for part in _parts(each, f"{where}[{number}]")]
    others = [part for part in parts if part["type"] != "text"]
    text = "\n\n".join(part["text"] for part in parts if part["type"] == "text" and part["text"])
    text = "\n\n".join(each for each in (text, _IMAGES_FOLLOW if others else "") if each)
    if block.get("is_error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": call_id(block["tool_use_id"]), "content": text}, others


def _parts(block: Mapping[str, Any], where: str) -> Blocks:
    kind = block.get("type")
    if kind == "text":
        return [{"type": "text", "text": block["text"]}]
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": _image_url(block["source"], f"{where}.source")}}]
    if kind in ("document", "search_result"):
        cited = block.get("citations")
        if isinstance(cited, dict) and cited.get("enabled"):
            raise invalid(f"{where}.citations", "this model's provider gives no citations")
        return _document(block, where) if kind == "document" else _search_result(block, where)
    raise _unsayable(f"{where}.type", kind)


def _image_url(source: Mapping[str, Any], where: str) -> str:
    if source["type"] == "base64":
        return f"data:{source['media_type']};base64,{source['data']}"
    if source["type"] == "url":
        return str(source["url"])
    raise invalid(f"{where}.type", "an image is sent as base64 or as a link")


def _document(block: Mapping[str, Any], where: str) -> Blocks:
    """A document's text under its title; a PDF as the file that it is."""
    source = block["source"]
    kind = source["type"]
    head = _head(block, "title", "context")
    if kind == "text":
        return [{"type": "text", "text": f"{head}\n\n{source['data']}" if head else source["data"]}]
    above = [{"type": "text", "text": head}] if head else []
    if kind == "content":
        inside = source["content"]
        blocks = [{"type": "text", "text": inside}] if isinstance(inside, str) else inside
        at = f"{where}.source.content"
        return above + [part for number, each in enumerate(blocks) for part in _parts(each, f"{at}[{number}]")]
    if kind == "base64":
        data = f"data:{source['media_type']};base64,{source['data']}"
        return [*above, {"type": "file", "file": {"filename": block.get("title") or "document.pdf", "file_data": data}}]
    raise invalid(f"{where}.source.type", "this model's provider reads documents that are sent along, not links")


def _search_result(block: Mapping[str, Any], where: str) -> Blocks:
    content = block["content"] if isinstance(block["content"], list) else []
    text = plain_text(content, f"{where}.content")
    return [{"type": "text", "text": f"{_head(block, 'title', 'source')}\n\n{text}"}]


def _head(block: Mapping[str, Any], *names: str) -> str:
    return "\n".join(str(block[name]) for name in names if block.get(name))


def _unsayable(where: str, kind: object) -> TollbridgeError:
    return invalid(where, f"this model's provider can't read a block of the type {str(kind)[:100]!r} here")


def invalid(param: str, message: str) -> TollbridgeError:
    """The refusal of a field that can't be said in chat."""
    return TollbridgeError(Code.INVALID_REQUEST, f"{param}: {message}.", details={"param": param})
