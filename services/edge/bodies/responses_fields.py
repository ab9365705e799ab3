"""The body of a response request, by its types: what is wrong is refused by its name before money is held for it.

Items and parts are each one permissive shape, as clients leave their `type` out where a message can be guessed. Which
of them a chat can carry is `translate/responses_to_chat.py`. Fields that are not here (there are always new ones) say
nothing to a chat provider and are left out.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


_DISPENSABLE = frozenset(
    {
        "image_generation",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)


class JsonObject(msgspec.Struct, frozen=True):
    """Any JSON object, when only that matters."""


class Sound(msgspec.Struct, frozen=True):
    """What an `input_audio` part holds."""

    data: str
    format: str | None = None


class Part(msgspec.Struct, frozen=True):
    """A part of a message, of a tool's output or of a reasoning item."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: Sound | None = None


class Item(msgspec.Struct, frozen=True):
    """An item of the conversation. `type` may be left out of a message, and of a reference, which is but an id."""

    type: str | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Part] | None = None

    @property
    def kind(self) -> str:
        """Its type, guessed where it was left out."""
        return self.type or ("message" if self.role else "item_reference")


class ToolFormat(msgspec.Struct, frozen=True):
    """How a custom tool's input looks: free text, or a grammar."""

    type: str = "text"
    syntax: str | None = None
    definition: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that the client runs, or a namespace of such `tools`; of others only the type matters."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, msgspec.Raw] | None = None
    strict: bool | None = None
    format: ToolFormat | None = None
    tools: "list[Tool] | None" = None

    @property
    def is_dispensable(self) -> bool:
        """Whether a provider would run it, and an answer is as good as it gets without: agents offer it unasked."""
        return self.type in _DISPENSABLE


class NamedTool(msgspec.Struct, frozen=True):
    """A tool, named."""

    type: str
    name: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tool must be called, or which of them may."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = []


class TextFormat(msgspec.Struct, frozen=True):
    """What the text must look like."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema: dict[str, msgspec.Raw] | None = None
    strict: bool | None = None


class Text(msgspec.Struct, frozen=True):
    """How the text is written."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """How much is thought, and whether a summary of it is shown."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesBody(msgspec.Struct, frozen=True, kw_only=True):
    """The whole body."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | Annotated[list[Item], Meta(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: JsonObject | None = None
    max_output_tokens: Count | None = None
    max_tool_calls: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    previous_response_id: msgspec.Raw | UnsetType = UNSET
    conversation: msgspec.Raw | UnsetType = UNSET
    prompt: msgspec.Raw | UnsetType = UNSET

    @property
    def shows_logprobs(self) -> bool:
        """Whether the answer is to say how likely its tokens were."""
        return bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())
