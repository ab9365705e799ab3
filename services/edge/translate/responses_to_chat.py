"""A response request as a chat request: the conversation's items become messages, the rest is named as chat names it.

What a chat has no words for changes what the client relies on, so it is refused by its name: items and tools of
OpenAI's own servers, references to what would have to be stored. Links to images and files are handed on, never
fetched. Reasoning goes back as text where there is text; what is encrypted only its maker could read.
"""

from collections.abc import Sequence

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.bodies.responses_fields import Item, Part, ResponsesBody, TextFormat, Tool, ToolChoice
from services.edge.translate.narrow_names import call_id
from services.edge.translate.tool_names import joined, named_tools
from services.edge.translate.turns import ChatTurns

Json = dict[str, object]

_OUTPUTS = ("function_call_output", "custom_tool_call_output")
CALLS = ("function_call", "custom_tool_call")
"""The types of items that are tool calls of the model's."""
REASONING_IDS = "rs_"
"""What the ids of reasoning begin with."""
_TOOLS = ("function", "custom")
_DETAILS = ("auto", "low", "high")


def chat_request(body: ResponsesBody) -> Json:
    """The chat request, without model, stream and limit. Raises TollbridgeError(INVALID_REQUEST, details `param`)."""
    request: Json = {"messages": _messages(body)}
    _add_tools(body, request)
    _add_text(body, request)
    if body.shows_logprobs:
        request["logprobs"] = True
        if body.top_logprobs:
            request["top_logprobs"] = body.top_logprobs
    if body.reasoning is not None and body.reasoning.effort is not None:
        request["reasoning_effort"] = body.reasoning.effort
    for name in ("temperature", "top_p", "service_tier", "user", "safety_identifier", "prompt_cache_key"):
        value = getattr(body, name)
        if value is not None:
            request[name] = value
    return request


def _messages(body: ResponsesBody) -> list[Json]:
    turns = ChatTurns()
    if body.instructions:
        turns.add_system(body.instructions)
    if isinstance(body.input, str):
        turns.add_user([_text(body.input)])
        return turns.messages()
    for number, item in enumerate(body.input):
        _add_item(item, turns, f"input[{number}]")
    messages = turns.messages()
    if not messages:
        raise invalid("input", "There is no item with content in input.")
    return messages


def _add_item(item: Item, turns: ChatTurns, where: str) -> None:
    if item.kind == "message":
        _add_message(item, turns, where)
    elif item.kind == "reasoning":
        shown = (item.content if isinstance(item.content, list) else None) or item.summary or ()
        turns.add_reasoning("".join(part.text or "" for part in shown))
    elif item.kind in CALLS:
        turns.add_call(_call_id(item, where), _call(item, where))
    elif item.kind in _OUTPUTS:
        _add_output(item, turns, where)
    elif item.kind == "item_reference":
        _pass_over(item, where)
    else:
        raise invalid(f"{where}.type", f"Items of type {item.kind[:100]!r} are not offered here.")


def _pass_over(item: Item, where: str) -> None:
    """Reasoning that is only referred to: a conversation goes on without it, but with no other hole."""
    if not (item.id or "").startswith(REASONING_IDS):
        message = "Nothing is stored here, so no item can be referred to: send it whole, as SDKs do with store: false."
        raise invalid(f"{where}.type", message)


def _add_message(item: Item, turns: ChatTurns, where: str) -> None:
    if item.role is None:
        raise invalid(f"{where}.role", f"You must provide {where}.role.")
    if item.content is None:
        raise invalid(f"{where}.content", f"You must provide {where}.content.")
    parts = _parts(item.content, f"{where}.content")
    if item.role == "user":
        turns.add_user(parts)
    elif item.role == "assistant":
        turns.add_assistant(parts)
    else:
        # Only OpenAI's own models know developers, and take a system message for theirs.
        turns.add_system(_only_texts(parts, where))


def _call(item: Item, where: str) -> Json:
    name = _required(item.name, f"{where}.name")
    if item.namespace is not None:
        name = joined(item.namespace, name)
    if item.kind == "custom_tool_call":
        given = _required(item.input, f"{where}.input")
        return {"id": _call_id(item, where), "type": "custom", "custom": {"name": name, "input": given}}
    arguments = _required(item.arguments, f"{where}.arguments")
    return {"id": _call_id(item, where), "type": "function", "function": {"name": name, "arguments": arguments}}


def _call_id(item: Item, where: str) -> str:
    return call_id(_required(item.call_id, f"{where}.call_id"))


def _add_output(item: Item, turns: ChatTurns, where: str) -> None:
    called = _call_id(item, where)
    if item.output is None:
        raise invalid(f"{where}.output", f"You must provide {where}.output.")
    parts = _parts(item.output, f"{where}.output")
    if not turns.add_output(called, parts):
        raise invalid(f"{where}.call_id", f"No tool call found for the output of {str(item.call_id)[:100]!r}.")


def _parts(content: str | Sequence[Part], where: str) -> list[Json]:
    if isinstance(content, str):
        return [_text(content)]
    return [_part(part, f"{where}[{number}]") for number, part in enumerate(content)]


def _part(part: Part, where: str) -> Json:
    if part.type in ("input_text", "output_text", "text"):
        return _text(_required(part.text, f"{where}.text"))
    if part.type == "refusal":
        return {"type": "refusal", "refusal": _required(part.refusal, f"{where}.refusal")}
    if part.file_id is not None:
        raise invalid(f"{where}.file_id", "Nothing is stored here: send the image or file itself.")
    if part.type == "input_image":
        image: Json = {"url": _required(part.image_url, f"{where}.image_url")}
        if part.detail in _DETAILS:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    if part.type == "input_file":
        data = part.file_data if part.file_data is not None else part.file_url
        named = {} if part.filename is None else {"filename": part.filename}
        return {"type": "file", "file": {**named, "file_data": _required(data, f"{where}.file_data")}}
    if part.type == "input_audio":
        if part.input_audio is None:
            raise invalid(f"{where}.input_audio", f"You must provide {where}.input_audio.")
        return {"type": "input_audio", "input_audio": msgspec.to_builtins(part.input_audio)}
    raise invalid(f"{where}.type", f"Parts of type {part.type[:100]!r} are not offered here.")


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _only_texts(parts: Sequence[Json], where: str) -> str:
    if any(part["type"] != "text" for part in parts):
        raise invalid(f"{where}.content", "Instructions are text.")
    return "\n\n".join(str(part["text"]) for part in parts)


def _add_tools(body: ResponsesBody, request: Json) -> None:
    """Tools and the choice of them. Where only some are allowed, only these are told: every provider knows that."""
    choice = body.tool_choice
    _refuse_foreign(body.tools or (), "tools")
    given = [tool for tool in body.tools or () if not tool.is_dispensable]
    if isinstance(choice, ToolChoice) and choice.type == "allowed_tools":
        allowed = {(named.type, named.name) for named in choice.tools}
        given = [tool for tool in given if (tool.type, tool.name) in allowed]
    tools = [_tool(tool, name) for name, _, tool in named_tools(given)]
    if not tools and (choice == "required" or isinstance(choice, ToolChoice)):
        raise invalid("tool_choice", "tool_choice asks for a tool, but there are no tools.")
    if not tools:
        return
    request["tools"] = tools
    if choice is not None:
        request["tool_choice"] = _choice(choice) if isinstance(choice, ToolChoice) else choice
    if body.parallel_tool_calls is not None:
        request["parallel_tool_calls"] = body.parallel_tool_calls


def _refuse_foreign(tools: Sequence[Tool], where: str) -> None:
    """Refuses tools that the client does not run, but for those that are left out, and tools without a name."""
    for number, tool in enumerate(tools):
        if tool.is_dispensable and where == "tools":
            continue
        if tool.type not in _TOOLS and not (tool.type == "namespace" and where == "tools"):
            kind = tool.type[:100]
            message = (
                f"Tools of type {kind!r}, which a provider runs, are not offered here: turn them off in the client."
            )
            raise invalid(f"{where}[{number}].type", message)
        _required(tool.name, f"{where}[{number}].name")
        _refuse_foreign(tool.tools or (), f"{where}[{number}].tools")


def _tool(tool: Tool, name: str) -> Json:
    made: Json = {"name": name}
    if tool.description is not None:
        made["description"] = tool.description
    if tool.type == "function":
        if tool.parameters is not None:
            made["parameters"] = tool.parameters
        if tool.strict is not None:
            made["strict"] = tool.strict
    elif tool.format is not None:
        made["format"] = _custom_format(tool)
    return {"type": tool.type, tool.type: made}


def _custom_format(tool: Tool) -> Json:
    wanted = tool.format
    if wanted is None or wanted.type != "grammar":
        return {"type": "text"}
    return {"type": "grammar", "grammar": {"syntax": wanted.syntax, "definition": wanted.definition}}


def _choice(choice: ToolChoice) -> object:
    if choice.type == "allowed_tools":
        return choice.mode
    if choice.type not in _TOOLS:
        raise invalid("tool_choice.type", f"Tools of type {choice.type[:100]!r} are not offered here.")
    return {"type": choice.type, choice.type: {"name": _required(choice.name, "tool_choice.name")}}


def _add_text(body: ResponsesBody, request: Json) -> None:
    if body.text is None:
        return
    if body.text.verbosity is not None:
        request["verbosity"] = body.text.verbosity
    wanted = body.text.format
    if wanted is None or wanted.type == "text":
        return
    if wanted.type == "json_object":
        request["response_format"] = {"type": "json_object"}
        return
    request["response_format"] = {"type": "json_schema", "json_schema": _schema(wanted)}


def _schema(wanted: TextFormat) -> Json:
    if wanted.schema is None:
        raise invalid("text.format.schema", "You must provide text.format.schema.")
    made: Json = {"name": _required(wanted.name, "text.format.name"), "schema": wanted.schema}
    if wanted.description is not None:
        made["description"] = wanted.description
    if wanted.strict is not None:
        made["strict"] = wanted.strict
    return made


def _required(value: str | None, where: str) -> str:
    if value is None:
        raise invalid(where, f"You must provide {where}.")
    return value


def invalid(param: str, message: str) -> TollbridgeError:
    """The refusal of a field."""
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": param})
