"""The content blocks of a Messages request: what each must have, and which of them are images or files.

A block of a type that is unknown here is its provider's to judge. What stands inside a block is looked at as deep as
something can be that is no text: results of tools and documents hold blocks of their own.
"""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.request_body import decode_part
from services.edge.paid.paid_request import Piece

T = TypeVar("T")
_NOTHING = msgspec.Raw(b"")
_NEEDS = {
    "text": ("text",),
    "image": ("source",),
    "document": ("source",),
    "search_result": ("source", "content"),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": ("thinking",),
    "redacted_thinking": ("data",),
}
_OBJECTS = {"image": "source", "document": "source", "tool_use": "input"}
_HOLD_BLOCKS = ("tool_result", "search_result")
_SOURCE_NEEDS = {"base64": ("media_type", "data"), "url": ("url",), "text": ("data",), "content": ("content",)}


class Block(msgspec.Struct, frozen=True):
    """A block as far as it is read here."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    tool_use_id: str | None = None
    source: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    content: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING


class _Source(msgspec.Struct, frozen=True):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: msgspec.Raw = _NOTHING


_BLOCKS = msgspec.json.Decoder(str | list[Block] | None)
_SOURCE = msgspec.json.Decoder(_Source)


def pieces_of(blocks: list[Block], where: str) -> Iterator[Piece]:
    """Checks the blocks; all of them that is no text. Raises INVALID_REQUEST with `param`."""
    for number, block in enumerate(blocks):
        at = f"{where}[{number}]"
        _check(block, at)
        if block.type in ("image", "document"):
            yield from _piece(block, f"{at}.source")
        elif block.type in _HOLD_BLOCKS:
            yield from _inside(block.content, f"{at}.content")


def _check(block: Block, at: str) -> None:
    for name in _NEEDS.get(block.type, ()):
        if _is_missing(getattr(block, name)):
            raise _invalid(f"{at}.{name}", f"You must provide {at}.{name}.")
    name = _OBJECTS.get(block.type, "")
    if name and bytes(memoryview(getattr(block, name))[:1]) != b"{":
        raise _invalid(f"{at}.{name}", f"{at}.{name} is not valid: expected `object`.")


def _piece(block: Block, at: str) -> Iterator[Piece]:
    """What an image or a document is. A document's plain text is counted as the text that it is."""
    source = _nested(block.source, _SOURCE, at)
    if source.type == "file":
        # Files belong to the account at the provider, which all customers share.
        raise _invalid(f"{at}.type", f"{at}.type is not valid: files are sent here as base64, text or a link.")
    for name in _SOURCE_NEEDS.get(source.type, ()):
        if _is_missing(getattr(source, name)):
            raise _invalid(f"{at}.{name}", f"You must provide {at}.{name}.")
    if source.type == "content":
        yield from _inside(source.content, f"{at}.content")
    elif source.type != "text":
        yield Piece(inline_bytes=len(bytes(block.source)), grows=block.type != "image")


def _inside(content: msgspec.Raw, at: str) -> Iterator[Piece]:
    found = _nested(content, _BLOCKS, at) if bytes(content) else None
    if isinstance(found, list):
        yield from pieces_of(found, at)


def _nested(raw: msgspec.Raw, decoder: msgspec.json.Decoder[T], at: str) -> T:
    """Part of the body; a wrong field is named by where it stands in the whole."""
    try:
        return decode_part(raw, decoder)
    except TollbridgeError as error:
        inner = error.details.get("param", "")
        dot = "" if not inner or inner.startswith("[") else "."
        param = f"{at}{dot}{inner}"
        words = error.message.removeprefix(f"{inner} ").removeprefix("is not valid: ")
        raise _invalid(param, f"{param} is not valid: {words[:1].lower()}{words[1:]}") from error


def _is_missing(value: str | msgspec.Raw | None) -> bool:
    return value is None or (isinstance(value, msgspec.Raw) and bytes(value) in (b"", b"null"))


def _invalid(param: str, message: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": param})
