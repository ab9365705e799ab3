"""The body of a Messages request: checked, and understood as far as money needs it.

All else in it is the provider's to judge, so the bytes travel on as they came where the provider speaks Messages too. A
wrong field is refused with its name in `param`.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.message_blocks import Block, pieces_of
from services.edge.bodies.request_body import decode_body, top_level
from services.edge.paid.paid_request import PaidRequest, Piece

_Share = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=1, le=1 << 40)]
_Name = Annotated[str, Meta(min_length=1)]

PASSED_ON_BETAS = (
    "advanced-tool-use",
    "claude-code",
    "clear-thinking",
    "context-management",
    "effort",
    "extended-cache-ttl",
    "fine-grained-tool-streaming",
    "interleaved-thinking",
    "output-128k",
    "pdfs",
    "prompt-caching",
    "structured-outputs",
    "token-counting",
    "token-efficient-tools",
    "tool-examples",
)
"""Betas by their names without the date: those that neither cost extra nor reach what other customers share. An hour's
cache is asked for, and priced, by its own field."""


class _Object(msgspec.Struct, frozen=True):
    """Any JSON object."""


class _Message(msgspec.Struct, frozen=True):
    """`system` is for instructions that come later in a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class _Tool(msgspec.Struct, frozen=True):
    """One of the client's own needs a schema; of the provider's nothing is known but that it has a type."""

    type: _Name | None = None
    name: _Name | None = None
    description: str | None = None
    input_schema: _Object | None = None


class _ToolChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct, frozen=True):
    type: str
    budget_tokens: _Count | None = None


class _Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is made to read, and all that says how it thinks about it."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_Message], Meta(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _Object | None = None


class MessagesBody(Prompt, frozen=True, kw_only=True):
    """Anthropic's. Fields that are not here are handed to a provider that speaks Messages too."""

    max_tokens: _Count
    stream: bool | None = None
    temperature: _Share | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    metadata: _Metadata | None = None
    service_tier: str | None = None


_BODY = msgspec.json.Decoder(MessagesBody)
_PROMPT = msgspec.json.Decoder(Prompt)


def parse_messages(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PaidRequest:
    """Checks the body. Raises INVALID_REQUEST with `param` where a field is to blame."""
    found = decode_body(body, _BODY)
    budget = found.thinking.budget_tokens if found.thinking is not None and found.thinking.type == "enabled" else None
    return PaidRequest(
        body=body,
        fields=top_level(body),
        model=found.model,
        stream=bool(found.stream),
        include_usage=True,
        asked_tokens=found.max_tokens,
        thinking_budget=budget or 0,
        pieces=_checked(found),
        headers=handed_on(headers),
    )


def parse_count(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PaidRequest:
    """The same for a body that is only counted: nothing is generated. Raises as `parse_messages`."""
    found = decode_body(body, _PROMPT)
    return PaidRequest(
        body=body,
        fields=top_level(body),
        model=found.model,
        choices=0,
        pieces=_checked(found),
        headers=handed_on(headers),
    )


def handed_on(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """The client's headers that travel on to a provider that speaks Messages: betas that are known to be harmless."""
    named = [value.decode("latin-1") for name, value in headers if name == b"anthropic-beta"]
    betas = [beta.strip() for beta in ",".join(named).split(",")]
    names = [beta for beta in betas if beta.isascii() and beta.replace("-", "").isalnum()]
    kept = [beta for beta in names if beta.startswith(PASSED_ON_BETAS)]
    return (("anthropic-beta", ",".join(kept[:32])),) if kept else ()


def _checked(found: Prompt) -> tuple[Piece, ...]:
    """Checks what the types alone don't tell; the images and files."""
    if found.messages[0].role == "system":
        words = "messages[0].role is not valid: what comes before all messages stands in the top-level `system`."
        raise TollbridgeError(Code.INVALID_REQUEST, words, details={"param": "messages[0].role"})
    pieces: list[Piece] = []
    for number, message in enumerate(found.messages):
        if isinstance(message.content, list):
            pieces += pieces_of(message.content, f"messages[{number}].content")
    if isinstance(found.system, list):
        pieces += pieces_of(found.system, "system")
    for number, tool in enumerate(found.tools or []):
        if tool.type in (None, "custom"):
            _need(tool.name, f"tools[{number}].name")
            _need(tool.input_schema, f"tools[{number}].input_schema")
    if found.tool_choice is not None and found.tool_choice.type == "tool":
        _need(found.tool_choice.name, "tool_choice.name")
    if found.thinking is not None and found.thinking.type == "enabled":
        _need(found.thinking.budget_tokens, "thinking.budget_tokens")
    return tuple(pieces)


def _need(value: object, param: str) -> None:
    if value is None:
        raise TollbridgeError(Code.INVALID_REQUEST, f"You must provide {param}.", details={"param": param})
