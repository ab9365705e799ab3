"""OpenAI chat over a provider that speaks Anthropic's Messages: call, whole answer, stream.

The names are those of `upstream.openai`'s chat wire (`prepare`, `read_answer`, a `StreamReader`), so that edge's relay
drives both alike. The request's side is in `chat_to_messages`.
"""

import dataclasses
from collections.abc import Mapping

import msgspec

from pricing.tokens import Tokens
from services.edge.translate import carried_thoughts
from services.edge.translate.chat_to_messages import messages_request
from services.edge.translate.effort import effort_of
from upstream.anthropic import messages
from upstream.anthropic.messages import Block, Event, Message, MessagesReader
from upstream.client import HttpCall
from upstream.kept_text import KeptText, TextRoom
from upstream.openai.usage_block import render_usage, usage_object
from upstream.route import Route
from upstream.usage import Captured, UsageLimits

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_DONE = b"data: [DONE]\n\n"


def prepare(body: Mapping[str, object], route: Route, *, max_tokens: int, stream: bool, request_id: str) -> HttpCall:
    """The Messages call for a client's chat request. Raises TollbridgeError(INVALID_REQUEST) for what can't be said."""
    request = messages_request(body, max_tokens=max_tokens)
    effort = effort_of(body, provider_model=route.provider_model)
    if effort is not None:
        shape = request.get("output_config")
        request["output_config"] = {**(shape if isinstance(shape, dict) else {}), "effort": effort}
    return messages.prepare(request, route, stream=stream, request_id=request_id)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatOfMessage:
    """A whole message, as the chat completion that it is for the client."""

    captured: Captured
    message: Message
    model: str
    created: int

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id and `cost` in its usage."""
        choice = {
            "index": 0,
            "message": _chat_message(self.message.content),
            "logprobs": None,
            "finish_reason": self.captured.finish_reason,
        }
        return msgspec.json.encode(
            {
                "id": self.captured.generation_id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [choice],
                "usage": render_usage(usage_object(tokens), cost),
            }
        )

    def text(self) -> str:
        """All text in it, for counting."""
        return "".join(map(messages.text_of, self.message.content))


def read_answer(body: bytes, *, model: str, created: int, limits: UsageLimits | None = None) -> ChatOfMessage:
    """Reads a whole answer with status 2xx. Raises AttemptFailed when it is none."""
    message, captured, _ = messages.read_message(body, limits=limits)
    return ChatOfMessage(captured=_in_chat_words(captured), message=message, model=model, created=created)


class ChatOverMessages:
    """The stream's `StreamReader`: Messages events in, chat chunks out."""

    def __init__(self, *, model: str, include_usage: bool, created: int, limits: UsageLimits | None = None) -> None:
        self._reader = MessagesReader(limits=limits)
        self._model = model
        self._include_usage = include_usage
        self._created = created
        self._head = b""
        self._tools: dict[int, int] = {}
        self._silent_tools: dict[int, str] = {}
        self._thoughts = carried_thoughts.Thoughts(room=TextRoom(limits))
        self._kept = KeptText(limits)
        self.has_content = False

    @property
    def ended(self) -> bool:
        """True once the message's stop or an error was seen."""
        return self._reader.ended

    def feed(self, data: bytes) -> bytes:
        """The bytes to relay for one read. Raises ProviderMisbehaved."""
        return b"".join([self._event(event) for event in self._reader.feed(data)])

    def finish(self) -> Captured:
        """What was captured so far."""
        return _in_chat_words(self._reader.captured())

    def closing(self, *, tokens: Tokens, cost: str | None, cut: bool = False) -> bytes:
        """The finish of a stream that was cut at its total time, the usage chunk, if asked for, the end."""
        out = b""
        if cut and not self._reader.captured().finish_reason:
            out = self._chunk({}, finish="length")
        if self._include_usage:
            usage = render_usage(usage_object(tokens), cost)
            out += self._opening() + b'"choices":[],"usage":' + bytes(usage) + b"}\n\n"
        return out + _DONE

    def stop_delivery(self) -> None:
        """From now on nothing counts as delivered."""
        self._kept.stop()

    def delivered_text(self) -> str:
        """All text handed out so far."""
        return self._kept.text()

    def _event(self, event: Event) -> bytes:
        kind = event.type
        if kind == "content_block_delta":
            return self._delta(event)
        if kind == "message_start":
            return self._chunk({"role": "assistant", "content": ""})
        if kind == "content_block_start" and event.content_block is not None:
            return self._begin_block(event.index, event.content_block)
        if kind == "content_block_stop" and event.index in self._silent_tools:
            return self._arguments(event.index, self._silent_tools[event.index])
        if kind == "message_delta" and event.delta is not None and event.delta.stop_reason:
            self.has_content = True
            thoughts = self._thoughts.shown()
            carried = self._chunk({carried_thoughts.FIELD: thoughts}) if thoughts else b""
            return carried + self._chunk({}, finish=_finish(event.delta.stop_reason))
        return b":\n\n" if kind == "ping" else b""

    def _delta(self, event: Event) -> bytes:
        delta = event.delta
        if delta is None:
            return b""
        self._thoughts.add(event.index, delta)
        if delta.text:
            return self._text("content", delta.text)
        if delta.thinking:
            return self._text("reasoning_content", delta.thinking)
        if delta.partial_json and event.index in self._tools:
            return self._arguments(event.index, delta.partial_json)
        return b""

    def _begin_block(self, index: int, block: Block) -> bytes:
        self._thoughts.begin(index, block)
        if block.type != "tool_use":
            text = self._text("content", block.text) if block.text else b""
            return text + (self._text("reasoning_content", block.thinking) if block.thinking else b"")
        self._tools[index] = len(self._tools)
        # Some send the whole input at once; and a tool without parameters has none, where clients expect `{}`.
        self._silent_tools[index] = msgspec.json.encode(block.input or {}).decode()
        name = block.name or ""
        self._delivered(name)
        function = {"name": name, "arguments": ""}
        call = {"index": self._tools[index], "id": block.id or "", "type": "function", "function": function}
        return self._chunk({"tool_calls": [call]})

    def _arguments(self, index: int, piece: str) -> bytes:
        self._silent_tools.pop(index, None)
        self._delivered(piece)
        return self._chunk({"tool_calls": [{"index": self._tools[index], "function": {"arguments": piece}}]})

    def _text(self, name: str, text: str) -> bytes:
        self._delivered(text)
        return self._chunk({name: text})

    def _delivered(self, text: str) -> None:
        self.has_content = True
        self._kept.add(text)

    def _chunk(self, delta: Mapping[str, object], *, finish: str | None = None) -> bytes:
        ended = msgspec.json.encode(finish)
        said = msgspec.json.encode(delta)
        return b"".join(
            (
                self._opening(),
                b'"choices":[{"index":0,"delta":',
                said,
                b',"logprobs":null,"finish_reason":',
                ended,
                b"}]}\n\n",
            )
        )

    def _opening(self) -> bytes:
        """What every chunk begins with, up to its choices; made once, when the generation's id is known."""
        if not self._head:
            head = {
                "id": self._reader.captured().generation_id,
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": self._model,
            }
            self._head = b"data: " + msgspec.json.encode(head)[:-1] + b","
        return self._head


def _chat_message(blocks: list[Block]) -> dict[str, object]:
    text = "".join(block.text or "" for block in blocks if block.type == "text")
    thinking = "".join(block.thinking or "" for block in blocks if block.type == "thinking")
    calls = [_tool_call(block) for block in blocks if block.type == "tool_use"]
    message: dict[str, object] = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    if thinking:
        message["reasoning_content"] = thinking
    if thoughts := carried_thoughts.signed(blocks):
        message[carried_thoughts.FIELD] = thoughts
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: Block) -> dict[str, object]:
    arguments = msgspec.json.encode(block.input or {}).decode()
    return {"id": block.id or "", "type": "function", "function": {"name": block.name or "", "arguments": arguments}}


def _in_chat_words(captured: Captured) -> Captured:
    return dataclasses.replace(captured, finish_reason=_finish(captured.finish_reason))


def _finish(stop_reason: str) -> str:
    """OpenAI's word; a stop reason that we don't know yet ended the message all the same."""
    return FINISH.get(stop_reason, "stop") if stop_reason else ""
