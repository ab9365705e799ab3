"""The documented fields of a chat request that travel on as they came: here only their types are told.

A field of a wrong type is refused by its name before money is held for it. What a provider may see differently (ranges,
names of models and tools, which fields belong together) is the provider's to judge, and so are fields that OpenAI does
not document. Objects are looked into no further than a mistake is likely; decoding skips the rest of them.
"""

from typing import Literal

import msgspec


class _Object(msgspec.Struct, frozen=True):
    """Any JSON object."""


class _Function(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: _Object | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, frozen=True):
    """`type` is optional, since some providers know tools without."""

    type: str | None = None
    function: _Function | None = None


_Choice = Literal["auto", "none", "required", "any"]
"""OpenAI's three, and what Mistral calls the third."""


class _Typed(msgspec.Struct, frozen=True):
    type: str


class _Called(msgspec.Struct, frozen=True):
    name: str
    arguments: str | None = None


class _ToolCall(msgspec.Struct, frozen=True):
    id: str | None = None
    type: str | None = None
    function: _Called | None = None


class MessageFields(msgspec.Struct, frozen=True, kw_only=True):
    """A message but for its content."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    name: str | None = None
    refusal: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Called | None = None
    audio: _Object | None = None


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
    response_format: _Typed | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    tool_choice: _Choice | _Object | None = None
    tools: list[_Tool] | None = None
    top_logprobs: int | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: _Object | None = None

    def lacking(self) -> str | None:
        """The place of a function that a tool promises by its type and doesn't have."""
        for number, tool in enumerate(self.tools or ()):
            if tool.type == "function" and tool.function is None:
                return f"tools[{number}].function"
        return None
