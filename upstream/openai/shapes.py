"""Answers of chat providers in OpenAI's shape: what their clients read without asking whether it is there.

Azure leaves the delta out of chunks about its filters and sends empty ids, Gemini sends none, Mistral puts text and
thinking into lists of parts, and some number no call of a whole answer. SDKs break on each of these, so it is mended;
what OpenAI has no shape for stays as it came.
"""

import time
from collections.abc import Mapping

import msgspec

from chassis.ids import uuid7

_EMPTY = (b"null", b'""', b"0")


def with_head(
    fields: Mapping[str, msgspec.Raw], *, kind: str, made: Mapping[str, msgspec.Raw]
) -> dict[str, msgspec.Raw]:
    """A chunk or an answer with an id, its kind and a time; those of `made`, where it has none of its own."""
    head = {"id": made["id"], "object": msgspec.Raw(msgspec.json.encode(kind)), "created": made["created"]}
    return {**head, **{name: raw for name, raw in fields.items() if name not in head or bytes(raw) not in _EMPTY}}


def made_head(kind: str) -> dict[str, msgspec.Raw]:
    """An id and a time for an answer of that kind whose provider names none."""
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    made = {"id": f"{prefix}-{uuid7().hex}", "created": int(time.time())}
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in made.items()}


def lacks_head(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether `with_head` would change it."""
    return any(bytes(fields.get(name, b"null")) in _EMPTY for name in ("id", "object", "created"))


def mend_content(message: object) -> bool:
    """Puts the parts of a message's or delta's content into texts, thoughts apart; whether there were any to put."""
    if not isinstance(message, dict) or not isinstance(parts := message.get("content"), list) or not parts:
        return False
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "thinking" and (thought := _thought(part.get("thinking"))) is not None:
            thoughts.append(thought)
        else:
            return False
    message["content"] = "".join(texts) if texts else None
    if thoughts and not message.get("reasoning_content"):
        message["reasoning_content"] = "".join(thoughts)
    return True


def mend_role(choice: dict[str, object], *, is_first: bool) -> bool:
    """Says in the first delta of a choice who speaks, and in no other; whether it had to be mended.

    OpenAI's SDK for Node refuses a stream that never says so, the one for Python adds up what each chunk says.
    """
    delta = choice.get("delta")
    if not isinstance(delta, dict) or bool(delta.get("role")) == is_first:
        return False
    others = {name: value for name, value in delta.items() if name != "role"}
    choice["delta"] = {**others, "role": "assistant"} if is_first else others
    return True


def mend_calls(message: object) -> bool:
    """Gives the calls of a whole message ids of their own and arguments that are text; whether that changed any."""
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    changed = False
    seen: set[object] = set()
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, dict):
            continue
        if not isinstance(call.get("id"), str) or not call["id"] or call["id"] in seen:
            call["id"] = f"call_{uuid7().hex}"
            changed = True
        seen.add(call["id"])
        function = call.get("function")
        if isinstance(function, dict):
            if not call.get("type"):
                call["type"] = "function"
                changed = True
            if isinstance(function.get("arguments"), dict):
                function["arguments"] = msgspec.json.encode(function["arguments"]).decode()
                changed = True
    return changed


def _thought(value: object) -> str | None:
    """The text of a thinking part, which Mistral sends as a list of texts; None for anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        return None
    texts = [part.get("text") for part in value]
    return "".join(text for text in texts if isinstance(text, str))
