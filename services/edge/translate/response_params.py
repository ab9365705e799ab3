"""What a refusal of the chat that was made of a response blames, in the words of the response."""

import re
from collections.abc import Mapping

import msgspec

from chassis.errors import TollbridgeError
from services.edge.translate.responses_to_chat import CALLS

_CALL = re.compile(r"messages\[(\d+)\]\.tool_calls\[(\d+)\]")
_MESSAGE = re.compile(r"messages\b")


class _Item(msgspec.Struct, frozen=True):
    type: str | None = None


class _Body(msgspec.Struct, frozen=True):
    input: str | list[_Item]


_BODY = msgspec.json.Decoder(_Body)


def in_words_of_a_response(error: TollbridgeError, *, chat: Mapping[str, object], body: bytes) -> TollbridgeError:
    """The same refusal: of a call by its item, for calls keep their order, of another message by all of `input`."""
    param = error.details.get("param", "")
    if not _MESSAGE.match(param):
        return error
    call = _CALL.match(param)
    named = "input" if call is None else _item(chat, body, message=int(call[1]), number=int(call[2]))
    message = error.message.replace(param, named)
    return TollbridgeError(
        error.code, message, details={**error.details, "param": named}, retry_after_s=error.retry_after_s
    )


def _item(chat: Mapping[str, object], body: bytes, *, message: int, number: int) -> str:
    messages, items = chat["messages"], _BODY.decode(body).input
    if not isinstance(messages, list) or isinstance(items, str):
        return "input"
    before = sum(len(each.get("tool_calls", ())) for each in messages[:message])
    places = [place for place, item in enumerate(items) if item.type in CALLS]
    return f"input[{places[before + number]}]"
