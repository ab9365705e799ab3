"""The documented fields of a chat request that travel on as they came: here only their types are told.

A field of a wrong type is refused by its name before money is held for it. What a provider may see differently (ranges,
names of models and tools, which fields belong together) is the provider's to judge, and so are fields that OpenAI does
not document. Objects are looked into no further than a mistake is likely; decoding skips the rest of them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class _Object(msgspec.Struct, frozen=True):
    """Any JSON object."""


class _Function(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: _Object | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, frozen=True):
    """`type` is optional, since some providers know tools without."""

    type: str | None = None
    function: _Function | None = None


_Choice = Literal["auto", "none", "required", "any"]
"""OpenAI's three, and what Mistral calls the third."""


class _Named(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1)]


class _ChosenTool(msgspec.Struct, frozen=True):
    type: str | None = None
    function: _Named | None = None


class _Format(msgspec.Struct, frozen=True):
    type: str
    json_schema: _Object | None = None


class _Called(msgspec.Struct, frozen=True):
    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """A call in an earlier answer."""

    id: str | None = None
    type: str | None = None
    function: _Called | None = None


class MessageFields(msgspec.Struct, frozen=True, kw_only=True):
    """A message but for its content."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    name: str | None = None
    refusal: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: _Called | None = None
    audio: _Object | None = None

    def lacking(self) -> str | None:
        """The field that this message's role or a call promises and that is not there."""
        if self.role == "tool" and not self.tool_call_id:
            return "tool_call_id"
        for number, call in enumerate(self.tool_calls or ()):
            if call.type == "function" and call.function is None:
                return f"tool_calls[{number}].function"
        return None


class PassedOn(msgspec.Struct, frozen=True, kw_only=True):
    """A body but for what edge itself acts upon."""

    audio: _Object | None = None
    function_call: str | _Object | None = None
    functions: list[_Function] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    metadata: _Object | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    prediction: _Object | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    response_format: _Format | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    tool_choice: _Choice | _ChosenTool | None = None
    tools: list[_Tool] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: _Object | None = None

    def lacking(self) -> str | None:
        """The place of what a tool, the choice of one or a format promises by its type and doesn't have."""
        for number, tool in enumerate(self.tools or ()):
            if tool.type == "function" and tool.function is None:
                return f"tools[{number}].function"
        choice, shape = self.tool_choice, self.response_format
        if isinstance(choice, _ChosenTool) and choice.type == "function" and choice.function is None:
            return "tool_choice.function"
        if shape is not None and shape.type == "json_schema" and shape.json_schema is None:
            return "response_format.json_schema"
        return None
