"""An OpenAI chat request as an Anthropic Messages request.

What has no counterpart and changes no meaning that a client relies on (penalties, seed, logit_bias, user metadata) is
left out; what would change the answer's shape (n, logprobs, audio) is refused by name. Links to images are handed on,
never fetched.
"""

import base64
import binascii
from collections.abc import Mapping

import msgspec

from chassis.errors import Code, TollbridgeError
from services.edge.translate.carried_thoughts import given_back, may_think
from services.edge.translate.narrow_names import opaque_user_id, tool_use_id
from services.edge.translate.schemas import closed

_ONE_JSON_OBJECT = "Answer with one JSON object and nothing else."
_NO_PARAMETERS = {"type": "object", "properties": {}}
_ANTHROPIC_FIELDS = ("thinking", "top_k")
"""Fields that clients of Anthropic's models send in a chat request, and that mean the same there."""


Blocks = list[dict[str, object]]


def messages_request(body: Mapping[str, object], *, max_tokens: int) -> dict[str, object]:
    """The Messages request, without model and stream. Raises TollbridgeError(INVALID_REQUEST, details `param`)."""
    fields = {name: _plain(value) for name, value in body.items()}
    _refuse_untranslatable(fields)
    system, turns = _conversation(fields.get("messages"))
    messages = [{"role": role, "content": blocks} for role, blocks in turns]
    request: dict[str, object] = {"max_tokens": max_tokens, "messages": messages}
    request.update({name: fields[name] for name in _ANTHROPIC_FIELDS if fields.get(name) is not None})
    thinking = fields.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled" and not may_think(turns):
        del request["thinking"]
    _add_format(fields.get("response_format"), request, system)
    if system:
        request["system"] = system
    _add_sampling(fields, request)
    _add_tools(fields, request, [name for _, blocks in turns for name in _called(blocks)])
    user = fields.get("user") or fields.get("safety_identifier")
    if isinstance(user, str) and user:
        request["metadata"] = {"user_id": opaque_user_id(user)}
    return request


def _refuse_untranslatable(fields: Mapping[str, object]) -> None:
    if fields.get("n") not in (None, 1):
        raise _invalid("n", "this model gives one answer at a time")
    for name in ("logprobs", "top_logprobs", "audio", "functions", "function_call"):
        if fields.get(name) not in (None, False, 0):
            raise _invalid(name, f"this model does not offer `{name}`")


def _conversation(messages: object) -> tuple[Blocks, list[tuple[str, Blocks]]]:
    """System blocks, and the turns: neighbours of one role become one turn, tool results a turn of the user's."""
    if not isinstance(messages, list):
        raise _invalid("messages", "messages must be a list")
    system: Blocks = []
    turns: list[tuple[str, Blocks]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise _invalid(where, "a message must be an object")
        role = message.get("role")
        if role in ("system", "developer"):
            system += _blocks(message.get("content"), where)
            continue
        speaker, blocks = _turn(role, message, where)
        if turns and turns[-1][0] == speaker:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((speaker, blocks))
    if not turns:
        raise _invalid("messages", "there is no message with content")
    _trim_end(*turns[-1])
    return system, turns


def _trim_end(speaker: str, blocks: Blocks) -> None:
    """An answer that was begun for the model must not end in white space there."""
    text = blocks[-1].get("text")
    if speaker == "assistant" and isinstance(text, str):
        blocks[-1] = {**blocks[-1], "text": text.rstrip()}


def _turn(role: object, message: dict[str, object], where: str) -> tuple[str, Blocks]:
    if role == "user":
        return "user", _blocks(message.get("content"), where)
    if role == "assistant":
        said = message.get("content") or message.get("refusal")
        blocks = _blocks(said, where) + _tool_uses(message.get("tool_calls"), where)
        return "assistant", (given_back(message) + blocks if blocks else [])
    if role == "tool":
        result: dict[str, object] = {
            "type": "tool_result",
            "tool_use_id": tool_use_id(_text(message.get("tool_call_id"), f"{where}.tool_call_id")),
            "content": _blocks(message.get("content"), where),
        }
        return "user", [result if result["content"] else {**result, "content": ""}]
    raise _invalid(f"{where}.role", "role must be system, developer, user, assistant or tool")


def _blocks(content: object, where: str) -> Blocks:
    """Content as blocks. Texts without a word are left out: Anthropic refuses them."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    if not isinstance(content, list):
        raise _invalid(f"{where}.content", "content must be text or a list of parts")
    blocks = [_block(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
    return [block for block in blocks if block.get("type") != "text" or str(block.get("text")).strip()]


def _block(part: object, where: str) -> dict[str, object]:
    if not isinstance(part, dict):
        raise _invalid(where, "a part must be an object")
    kind = part.get("type")
    kept = {"cache_control": part["cache_control"]} if isinstance(part.get("cache_control"), dict) else {}
    if kind in ("text", "refusal"):
        return {"type": "text", "text": _text(part.get(kind), f"{where}.{kind}"), **kept}
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        return {"type": "image", "source": _source(_text(url, f"{where}.image_url.url"), where), **kept}
    if kind == "file":
        file = part.get("file")
        known = file if isinstance(file, dict) else {}
        source = _document_source(_text(known.get("file_data"), f"{where}.file.file_data"), where)
        title = {"title": known["filename"]} if isinstance(known.get("filename"), str) and known["filename"] else {}
        return {"type": "document", "source": source, **title, **kept}
    raise _invalid(f"{where}.type", "this model reads text, images and files")


def _source(url: str, where: str) -> dict[str, object]:
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise _invalid(where, "an image or file is an http(s) link or a base64 data URL")
    kind = head[5:-7].partition(";")[0].lower()
    return {"type": "base64", "media_type": "image/jpeg" if kind == "image/jpg" else kind, "data": data}


def _document_source(url: str, where: str) -> dict[str, object]:
    """A document; one of text as the text that it is, since only PDFs are taken as bytes."""
    source = _source(url, where)
    if not str(source.get("media_type")).startswith("text/"):
        return source
    try:
        text = base64.b64decode(str(source["data"])).decode()
    except (binascii.Error, ValueError) as error:
        raise _invalid(where, "a file of text must be UTF-8 in base64") from error
    return {"type": "text", "media_type": "text/plain", "data": text}


def _tool_uses(calls: object, where: str) -> Blocks:
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise _invalid(f"{where}.tool_calls", "tool_calls must be a list")
    uses: Blocks = []
    for number, call in enumerate(calls):
        at = f"{where}.tool_calls[{number}]"
        if not isinstance(call, dict):
            raise _invalid(at, "a tool call must be an object")
        function = _function(call, at)
        call_id = tool_use_id(_text(call.get("id"), f"{at}.id"))
        use = {"type": "tool_use", "id": call_id, "name": _text(function.get("name"), at)}
        uses.append({**use, "input": _arguments(function.get("arguments"), f"{at}.function.arguments")})
    return uses


def _called(blocks: Blocks) -> list[str]:
    return [str(block["name"]) for block in blocks if block["type"] == "tool_use"]


def _arguments(text: object, where: str) -> object:
    """A call's input. What a limit has cut, or a model got wrong, stands in it as the text that it is: the conversation
    has to go on."""
    written = "" if text is None else _text(text, where)
    if written.strip() in ("", "null"):
        return {}
    try:
        arguments: object = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"arguments": written}


def _add_format(wanted: object, request: dict[str, object], system: Blocks) -> None:
    if not isinstance(wanted, dict):
        return
    if wanted.get("type") == "json_object":
        system.append({"type": "text", "text": _ONE_JSON_OBJECT})
    if wanted.get("type") == "json_schema":
        named = wanted.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        if not isinstance(schema, dict):
            raise _invalid("response_format.json_schema.schema", "a schema must be an object")
        request["output_config"] = {"format": {"type": "json_schema", "schema": closed(schema)}}


def _add_sampling(fields: Mapping[str, object], request: dict[str, object]) -> None:
    """Temperature ends at 1 there; and as its newer models take one of the two, temperature goes before top_p."""
    temperature, top_p, stop = (fields.get(name) for name in ("temperature", "top_p", "stop"))
    if isinstance(temperature, (int, float)):
        request["temperature"] = min(temperature, 1)
    elif top_p is not None:
        request["top_p"] = top_p
    if stop:
        request["stop_sequences"] = [stop] if isinstance(stop, str) else stop


def _add_tools(fields: Mapping[str, object], request: dict[str, object], called: list[str]) -> None:
    """Tools and the choice of them. Those that were `called` before have to be told even if they are none any more."""
    tools = fields.get("tools")
    if not tools and called:
        request["tools"] = [{"name": name, "input_schema": _NO_PARAMETERS} for name in dict.fromkeys(called)]
        request["tool_choice"] = {"type": "none"}
    if not tools:
        return
    if not isinstance(tools, list):
        raise _invalid("tools", "tools must be a list")
    made = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    allowed, mode = _allowed(fields.get("tool_choice"))
    request["tools"] = made if allowed is None else [tool for tool in made if tool["name"] in allowed]
    if not request["tools"]:
        raise _invalid("tool_choice.allowed_tools.tools", "none of the tools is allowed")
    choice = _choice(mode)
    if fields.get("parallel_tool_calls") is False and (choice is None or choice["type"] != "none"):
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        request["tool_choice"] = choice


def _allowed(choice: object) -> tuple[set[str] | None, object]:
    """Which tools may be called, None for all, and what else is chosen. Anthropic is told of no others."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return None, choice
    where = "tool_choice.allowed_tools"
    given = choice.get("allowed_tools")
    tools = given.get("tools") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(tools, list):
        raise _invalid(where, "allowed_tools has a mode and tools")
    functions = [tool.get("function") if isinstance(tool, dict) else None for tool in tools]
    names = [function.get("name") if isinstance(function, dict) else None for function in functions]
    return {_text(name, f"{where}.tools[{number}].function.name") for number, name in enumerate(names)}, given.get(
        "mode"
    )


def _tool(tool: object, where: str) -> dict[str, object]:
    if not isinstance(tool, dict):
        raise _invalid(where, "a tool must be an object")
    function = _function(tool, where)
    parameters = function.get("parameters") or {"properties": {}}
    made: dict[str, object] = {
        "name": _text(function.get("name"), f"{where}.function.name"),
        "input_schema": {"type": "object", **parameters} if isinstance(parameters, dict) else parameters,
    }
    if function.get("description"):
        made["description"] = function["description"]
    if isinstance(tool.get("cache_control"), dict):
        made["cache_control"] = tool["cache_control"]
    return made


def _function(given: Mapping[str, object], where: str) -> Mapping[str, object]:
    """Of a tool, or of a call of one."""
    function, custom = given.get("function"), given.get("custom")
    if isinstance(function, dict):
        return function
    if given.get("type") == "custom":
        name = custom.get("name") if isinstance(custom, dict) else None
        which = f" ({name[:100]!r})" if isinstance(name, str) else ""
        raise _invalid(f"{where}.type", f"this model has no custom tools{which}, only functions: turn them off")
    raise _invalid(where, "a tool must be a function")


def _choice(choice: object) -> dict[str, object] | None:
    if choice is None:
        return None
    if isinstance(choice, str) and choice in _CHOICES:
        return {"type": _CHOICES[choice]}
    function = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(function, dict):
        return {"type": "tool", "name": _text(function.get("name"), "tool_choice.function.name")}
    raise _invalid("tool_choice", "tool_choice must be auto, none, required or a function")


_CHOICES = {"auto": "auto", "none": "none", "required": "any", "any": "any"}


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _invalid(where, "a text is missing here")
    return value


def _invalid(param: str, message: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, message, details={"param": param})


def _plain(value: object) -> object:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
