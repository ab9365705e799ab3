"""The turns of a chat, built from a flat list of items: what a speaker says in a row, and each call's output after it.

Chat providers are strict about the order: a message with tool calls is followed at once by one message for each
output, whatever stood between them in the list. Outputs there are text only, so their images and files follow as the
user's.
"""

import dataclasses
from collections.abc import Sequence

Json = dict[str, object]


@dataclasses.dataclass(slots=True, kw_only=True)
class _Turn:
    """A message as it grows, and what must follow it. `has_said` tells an empty content from none.

    Its pieces are put together once, at the end: there can be a million of them.
    """

    role: str
    parts: list[Json] = dataclasses.field(default_factory=list)
    has_said: bool = True
    reasoning: list[str] = dataclasses.field(default_factory=list)
    calls: list[Json] = dataclasses.field(default_factory=list)
    outputs: list[Json] = dataclasses.field(default_factory=list)
    attached: list[Json] = dataclasses.field(default_factory=list)

    def message(self) -> Json:
        """The whole message."""
        message: Json = {"role": self.role, "content": _content(self.parts) if self.has_said else None}
        if self.role == "system":
            message["content"] = "\n\n".join(str(part["text"]) for part in self.parts)
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class ChatTurns:
    """Takes items in their order, gives messages. Parts are chat's."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._callers: dict[str, _Turn] = {}
        self._reasoning: list[str] = []

    def add_system(self, text: str) -> None:
        """Instructions; neighbours become one message, as many chat templates know only one."""
        turn = self._last("system") or self._add("system", [])
        turn.parts.append({"type": "text", "text": text})

    def add_user(self, parts: Sequence[Json]) -> None:
        """What the user says."""
        self._reasoning.clear()
        self._add("user", parts)

    def add_assistant(self, parts: Sequence[Json]) -> None:
        """What the model said. After its calls it is still one message with them: their outputs come next."""
        before = self._last("assistant")
        if before is None or not before.calls:
            self._take_reasoning(self._add("assistant", parts))
            return
        before.parts += parts
        before.has_said = True

    def add_reasoning(self, text: str) -> None:
        """What the model thought before what it says or calls next."""
        if text:
            self._reasoning.append(text)

    def add_call(self, call_id: str, call: Json) -> None:
        """A tool call of the model's."""
        turn = self._last("assistant") or self._add("assistant", None)
        self._take_reasoning(turn)
        turn.calls.append(call)
        self._callers[call_id] = turn

    def add_output(self, call_id: str, parts: Sequence[Json]) -> bool:
        """What came of a call; False when there was no such call."""
        turn = self._callers.get(call_id)
        if turn is None:
            return False
        texts = [str(part["text"]) for part in parts if part["type"] == "text"]
        others = [part for part in parts if part["type"] != "text"]
        if others and not texts:
            texts = ["The output follows."]
        turn.outputs.append({"role": "tool", "tool_call_id": call_id, "content": "\n".join(texts)})
        turn.attached += others
        return True

    def messages(self) -> list[Json]:
        """All of it, in an order that providers take."""
        messages: list[Json] = []
        for turn in self._turns:
            messages += [turn.message(), *turn.outputs]
            if turn.attached:
                messages.append({"role": "user", "content": turn.attached})
        return messages

    def _add(self, role: str, parts: Sequence[Json] | None) -> _Turn:
        turn = _Turn(role=role, parts=list(parts or ()), has_said=parts is not None)
        self._turns.append(turn)
        return turn

    def _last(self, role: str) -> _Turn | None:
        """The last turn, if it is this role's and nothing has answered it yet."""
        last = self._turns[-1] if self._turns else None
        return last if last is not None and last.role == role and not last.outputs else None

    def _take_reasoning(self, turn: _Turn) -> None:
        """What was thought before goes with the message: some providers want it back from a model that called tools."""
        turn.reasoning += self._reasoning
        self._reasoning.clear()


def _content(parts: Sequence[Json]) -> object:
    """Content as plain text where it is one text, which every provider takes."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return list(parts)
