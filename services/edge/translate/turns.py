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
    """A message and what must follow it."""

    message: Json
    outputs: list[Json] = dataclasses.field(default_factory=list)
    attached: list[Json] = dataclasses.field(default_factory=list)


class ChatTurns:
    """Takes items in their order, gives messages. Parts are chat's."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._callers: dict[str, _Turn] = {}
        self._reasoning = ""

    def add_system(self, text: str) -> None:
        """Instructions; neighbours become one message, as many chat templates know only one."""
        before = self._last("system")
        if before is None:
            self._add({"role": "system", "content": text})
        else:
            before.message["content"] = f"{before.message['content']}\n\n{text}"

    def add_user(self, parts: Sequence[Json]) -> None:
        """What the user says."""
        self._reasoning = ""
        self._add({"role": "user", "content": _content(parts)})

    def add_assistant(self, parts: Sequence[Json]) -> None:
        """What the model said. After its calls it is still one message with them: their outputs come next."""
        before = self._last("assistant")
        if before is None or "tool_calls" not in before.message:
            self._take_reasoning(self._add({"role": "assistant", "content": _content(parts)}))
            return
        said = before.message["content"]
        former = [{"type": "text", "text": said}] if isinstance(said, str) else said if isinstance(said, list) else []
        before.message["content"] = _content([*former, *parts])

    def add_reasoning(self, text: str) -> None:
        """What the model thought before what it says or calls next."""
        self._reasoning += text

    def add_call(self, call_id: str, call: Json) -> None:
        """A tool call of the model's."""
        turn = self._last("assistant") or self._add({"role": "assistant", "content": None})
        self._take_reasoning(turn)
        calls = turn.message.setdefault("tool_calls", [])
        if isinstance(calls, list):
            calls.append(call)
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
            messages += [turn.message, *turn.outputs]
            if turn.attached:
                messages.append({"role": "user", "content": turn.attached})
        return messages

    def _add(self, message: Json) -> _Turn:
        turn = _Turn(message=message)
        self._turns.append(turn)
        return turn

    def _last(self, role: str) -> _Turn | None:
        """The last turn, if it is this role's and nothing has answered it yet."""
        last = self._turns[-1] if self._turns else None
        return last if last is not None and last.message["role"] == role and not last.outputs else None

    def _take_reasoning(self, turn: _Turn) -> None:
        """What was thought before goes with the message: some providers want it back from a model that called tools."""
        if self._reasoning:
            turn.message["reasoning_content"] = f"{turn.message.get('reasoning_content', '')}{self._reasoning}"
            self._reasoning = ""


def _content(parts: Sequence[Json]) -> object:
    """Content as plain text where it is one text, which every provider takes."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return list(parts)
