"""An Anthropic Messages request as an OpenAI chat request.

What has no counterpart and changes no answer (cache marks, service tier, editing of a context that is kept whole) is
left out; what would change the answer (a prefilled answer, citations, the provider's own tools) is refused by name.
Links to images are handed on, never fetched.

Thinking of earlier turns goes back to those who wrote it: without a signature it came from such a provider as
`reasoning_content`; what another provider has signed only that provider can read, and it is left out.
"""

from collections.abc import Mapping

import msgspec

from services.edge.translate.blocks_to_parts import Blocks, assistant_message, invalid, plain_text, user_messages
from services.edge.translate.narrow_names import tool_name, user_id
from services.edge.translate.schemas import closed, is_strict

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_TRANSLATED = frozenset(
    {
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
_MEANINGLESS = frozenset({"betas", "cache_control", "context_management", "diagnostics", "service_tier", "speed"})
"""What only says how Anthropic should run, store or save on it; `wires.messages` has refused what would cost."""
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_EFFORT_BY_BUDGET = ((2048, "low"), (8192, "medium"))


def chat_request(body: Mapping[str, object]) -> dict[str, object]:
    """The chat request, without model, limit and stream. Raises TollbridgeError(INVALID_REQUEST, details `param`)."""
    fields = {name: plain for name, value in body.items() if (plain := _plain(value)) is not None}
    for name in sorted(fields.keys() - _TRANSLATED - _MEANINGLESS):
        raise invalid(name, f"this model's provider does not know `{name}`")
    request: dict[str, object] = {"messages": _conversation(fields)}
    request.update({name: fields[name] for name in ("temperature", "top_p", "top_k") if name in fields})
    if fields.get("stop_sequences"):
        request["stop"] = fields["stop_sequences"]
    _add_tools(fields, request)
    _add_thinking(fields, request)
    _add_format(fields, request)
    metadata = fields.get("metadata")
    if isinstance(metadata, dict) and metadata.get("user_id"):
        request["user"] = user_id(metadata["user_id"])
    return request


def _conversation(fields: Mapping[str, object]) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    told = fields.get("system")
    system = plain_text(told, "system") if isinstance(told, (str, list)) else ""
    if system:
        made.append({"role": "system", "content": system})
    messages = fields.get("messages")
    known = messages if isinstance(messages, list) else []
    for number, message in enumerate(known):
        where = f"messages[{number}].content"
        role, content = message.get("role"), message.get("content")
        blocks: Blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if role == "system":
            made.append({"role": "system", "content": plain_text(blocks, where)})
        elif role == "assistant":
            made.append(assistant_message(blocks, where))
        else:
            made += user_messages(blocks, where)
    if known and known[-1].get("role") == "assistant":
        raise invalid("messages", "this model's provider can't go on with an answer that was begun for it")
    return made


def _add_tools(fields: Mapping[str, object], request: dict[str, object]) -> None:
    tools = fields.get("tools")
    if not isinstance(tools, list) or not tools:
        return
    request["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    choice = fields.get("tool_choice")
    if not isinstance(choice, dict):
        return
    kind = str(choice.get("type"))
    if kind == "tool":
        request["tool_choice"] = {"type": "function", "function": {"name": tool_name(str(choice.get("name")))}}
    else:
        request["tool_choice"] = _CHOICES[kind]
    if choice.get("disable_parallel_tool_use") and kind != "none":
        request["parallel_tool_calls"] = False


def own_tool_names(tools: object) -> dict[str, str]:
    """What the client calls its tools, by the names that a chat knows them by."""
    plain = _plain(tools)
    names = [tool.get("name") for tool in plain if isinstance(tool, dict)] if isinstance(plain, list) else []
    return {tool_name(name): name for name in names if isinstance(name, str)}


def _tool(tool: Mapping[str, object], where: str) -> dict[str, object]:
    if tool.get("type") not in (None, "custom"):
        raise invalid(f"{where}.type", "this model's provider has no tools of its own")
    schema = tool.get("input_schema")
    parameters = {"properties": {}, **schema} if isinstance(schema, dict) else schema
    function: dict[str, object] = {"name": tool_name(str(tool.get("name"))), "parameters": parameters}
    description = tool.get("description") or ""
    examples = tool.get("input_examples")
    if examples:
        description = f"{description}\n\nExamples of its input: {msgspec.json.encode(examples).decode()}".strip()
    if description:
        function["description"] = description
    if isinstance(tool.get("strict"), bool):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _add_thinking(fields: Mapping[str, object], request: dict[str, object]) -> None:
    """How hard to think, in the only words that chat has for it; said twice, the effort goes before the budget."""
    thinking, config = fields.get("thinking"), fields.get("output_config")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        tokens = budget if isinstance(budget, int) else 0
        request["reasoning_effort"] = next((name for most, name in _EFFORT_BY_BUDGET if tokens <= most), "high")
    effort = config.get("effort") if isinstance(config, dict) else None
    if effort is None:
        return
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise invalid("output_config.effort", f"effort must be one of {', '.join(_EFFORTS)}")
    request["reasoning_effort"] = _EFFORTS[effort]


def _add_format(fields: Mapping[str, object], request: dict[str, object]) -> None:
    config = fields.get("output_config")
    known = {"effort", "format"}
    for name in sorted(config.keys() - known) if isinstance(config, dict) else ():
        raise invalid(f"output_config.{name}", f"this model's provider does not know `{name}`")
    wanted = config.get("format") if isinstance(config, dict) else None
    where, wanted = ("output_config.format", wanted) if wanted else ("output_format", fields.get("output_format"))
    if wanted is None:
        return
    if (
        not isinstance(wanted, dict)
        or wanted.get("type") != "json_schema"
        or not isinstance(wanted.get("schema"), dict)
    ):
        raise invalid(where, "a format must be a json_schema with its schema")
    schema = wanted["schema"]
    strict = is_strict(schema)
    named = {"name": "answer", "schema": closed(schema) if strict else schema, "strict": strict}
    request["response_format"] = {"type": "json_schema", "json_schema": named}


def _plain(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
