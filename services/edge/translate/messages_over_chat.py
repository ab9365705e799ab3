"""Anthropic's Messages over a provider that speaks OpenAI chat: whole answer and stream; requests: `messages_to_chat`.

Chat does not say which stop sequence ended an answer, unless the provider adds it (`stop_reason` beside the finish, as
some do); else such an answer ends as `end_turn`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import msgspec

from chassis.ids import uuid7
from pricing.tokens import Tokens
from services.edge.translate.call_order import CallOrder
from services.edge.translate.message_events import PING, MessageEvents
from services.edge.translate.tool_names import unmistakable
from upstream.anthropic.usage_block import usage_object
from upstream.kept_text import KeptText, TextRoom
from upstream.openai import chat
from upstream.openai.chat_chunks import KEEP_ALIVE, ChatChunks
from upstream.openai.chat_stream import texts_of
from upstream.openai.usage_block import render_usage
from upstream.usage import Captured, UsageLimits

STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_CHOICES = msgspec.json.Decoder(list[dict[str, object]])
_NO_NAMES: Mapping[str, str] = {}
_ARGUMENTS = msgspec.json.Decoder(dict[str, object])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MessageOfChat:
    """A whole chat completion, as the message that it is for the client."""

    captured: Captured
    choice: Mapping[str, object]
    model: str
    stops: Sequence[str]
    names: Mapping[str, str]

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id and `cost` in its usage."""
        content = _content(_object(self.choice.get("message")), self.names)
        called = any(block["type"] == "tool_use" for block in content)
        refused = bool(_object(self.choice.get("message")).get("refusal"))
        reason, sequence = _stop(self.choice, self.stops, called=called, refused=refused)
        return msgspec.json.encode(
            {
                "id": _message_id(self.captured.generation_id),
                "type": "message",
                "role": "assistant",
                "model": self.model,
                "content": content,
                "stop_reason": reason,
                "stop_sequence": sequence,
                "usage": render_usage(usage_object(tokens), cost),
            }
        )

    def text(self) -> str:
        """All text in it, for counting."""
        return "".join(texts_of(self.choice.get("message")))


def read_answer(
    body: bytes,
    *,
    model: str,
    stops: Sequence[str],
    names: Mapping[str, str] = _NO_NAMES,
    limits: UsageLimits | None = None,
) -> MessageOfChat:
    """Reads a whole answer with status 2xx. `names` are the client's of its tools, by those that a chat knows.

    Raises AttemptFailed when it is none.
    """
    answer = chat.read_answer(body, model=model, limits=limits)
    first = _CHOICES.decode(answer.fields["choices"])[0]
    return MessageOfChat(captured=answer.captured, choice=first, model=model, stops=stops, names=names)


class MessagesOverChat:
    """The stream's `StreamReader`: chat chunks in, Messages events out. `names` as `read_answer` has them."""

    def __init__(
        self,
        *,
        model: str,
        stops: Sequence[str],
        names: Mapping[str, str] = _NO_NAMES,
        limits: UsageLimits | None = None,
    ) -> None:
        self._chunks = ChatChunks(limits=limits)
        self._events = MessageEvents(model=model)
        self._stops = stops
        self._names = names
        self._calls = CallOrder(names=unmistakable(names))
        self._last: dict[str, object] = {}
        self._late: list[str] = []
        self._refused = False
        self._kept = KeptText(limits)
        self._room = TextRoom(limits)
        self.has_content = False

    @property
    def ended(self) -> bool:
        """True once the end mark or an error was seen."""
        return self._chunks.ended

    def feed(self, data: bytes) -> bytes:
        """The bytes to relay for one read. Raises ProviderMisbehaved."""
        out = [self._choice(choice) for choice in self._chunks.feed(data)]
        if self.ended:
            out.append(self._rest())
        return b"".join(out)

    def finish(self) -> Captured:
        """What was captured so far."""
        return self._chunks.captured()

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """What is still open, the stop reason and the usage with `cost`, the end."""
        out = self._start() + self._rest()
        choice = self._last or {"finish_reason": "length" if cut else "stop"}
        reason, sequence = _stop(choice, self._stops, called=bool(self._calls), refused=self._refused)
        usage = render_usage(usage_object(tokens), cost)
        return out + self._events.end(stop_reason=reason, stop_sequence=sequence, usage=usage)

    def stop_delivery(self) -> None:
        """From now on nothing counts as delivered."""
        self._kept.stop()

    def delivered_text(self) -> str:
        """All text handed out so far."""
        return self._kept.text()

    def _choice(self, choice: dict[str, object]) -> bytes:
        if choice is KEEP_ALIVE:
            return PING if self._events.started else b":\n\n"
        out = [self._start()]
        delta = _object(choice.get("delta"))
        out += [self._events.thinking(self._delivered(text)) for text in _thoughts(delta)]
        refusal = _texts(delta.get("refusal"))
        self._refused = self._refused or bool(refusal)
        out += [self._text(text) for text in (*_texts(delta.get("content")), *refusal)]
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            if isinstance(call, dict):
                self._calls.add(call)
                out.append(self._ready())
                self._room.take(self._calls.left_waiting)
        if choice.get("finish_reason"):
            self.has_content = True
            self._last = choice
            out.append(self._rest())
        return b"".join(out)

    def _start(self) -> bytes:
        return b"" if self._events.started else self._events.start(_message_id(self.finish().generation_id))

    def _text(self, text: str) -> bytes:
        """A piece of text; amid the arguments of a call it waits for their end."""
        self._late.append(text)
        if not self._calls.is_busy:
            return self._said()
        self._room.take(len(text))
        return b""

    def _ready(self, *, final: bool = False) -> bytes:
        out: list[bytes] = []
        for call, begins, piece in self._calls.ready(final=final):
            if begins:
                name = self._names.get(self._delivered(call.name), call.name)
                out.append(self._events.tool_use(call_id=call.id, name=name))
            if piece:
                out.append(self._events.arguments(self._delivered(piece)))
        return b"".join(out)

    def _rest(self) -> bytes:
        """What waited for an order that will not come any more."""
        return self._ready(final=True) + self._said()

    def _said(self) -> bytes:
        late, self._late = "".join(self._late), []
        return self._events.text(self._delivered(late)) if late else b""

    def _delivered(self, text: str) -> str:
        self.has_content = True
        self._kept.add(text)
        return text


def _content(message: Mapping[str, object], names: Mapping[str, str]) -> list[dict[str, object]]:
    thinking = "".join(_thoughts(message))
    text = "".join((*_texts(message.get("content")), *_texts(message.get("refusal"))))
    blocks: list[dict[str, object]] = []
    if thinking:
        blocks.append({"type": "thinking", "thinking": thinking, "signature": ""})
    if text:
        blocks.append({"type": "text", "text": text})
    calls = message.get("tool_calls")
    known = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    taken: set[str] = set()
    return blocks + [_tool_use(call, names, taken) for call in known]


def _tool_use(call: Mapping[str, object], names: Mapping[str, str], taken: set[str]) -> dict[str, object]:
    function = _object(call.get("function"))
    name, call_id = str(function.get("name") or ""), str(call.get("id") or "")
    if not call_id or call_id in taken:
        call_id = f"toolu_{uuid7().hex}"
    taken.add(call_id)
    return {
        "type": "tool_use",
        "id": call_id,
        "name": names.get(name, name),
        "input": _input(function.get("arguments")),
    }


def _input(arguments: object) -> object:
    """The arguments as an object; what a limit has cut, or is none, stands in one as the text that it is."""
    if isinstance(arguments, dict) or not arguments:
        return arguments or {}
    try:
        return _ARGUMENTS.decode(str(arguments))
    except (msgspec.DecodeError, RecursionError):
        return {"arguments": arguments}


def _stop(choice: Mapping[str, object], stops: Sequence[str], *, called: bool, refused: bool) -> tuple[str, str | None]:
    """Stop reason and stop sequence. Some providers end an answer with calls as if it had none."""
    finish, matched = choice.get("finish_reason"), choice.get("stop_reason")
    if isinstance(matched, str) and matched in stops and finish == "stop":
        return "stop_sequence", matched
    reason = STOPS.get(str(finish), "end_turn")
    if reason == "end_turn" and (called or refused):
        reason = "tool_use" if called else "refusal"
    return reason, None


def _thoughts(message: Mapping[str, object]) -> list[str]:
    return _texts(message.get("reasoning_content")) or _texts(message.get("reasoning"))


def _texts(content: object) -> list[str]:
    """The texts of a content that is a text, or a list of parts."""
    if isinstance(content, str):
        return [content] if content else []
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return [text for part in parts if isinstance(text := part.get("text"), str) and text]


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _message_id(generation_id: str) -> str:
    """An id as Anthropic's clients know them; what the provider calls the answer stays visible in it."""
    if generation_id.startswith("msg_"):
        return generation_id
    return f"msg_{generation_id or uuid7().hex}"
