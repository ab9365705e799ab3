"""The sandbox's legacy completions: what a chat would say, as text."""

import msgspec

from upstream.sandbox.answers import ChatAnswer
from upstream.sandbox.script import ChatRequest, Message, Script


class CompletionRequest(ChatRequest, frozen=True, kw_only=True):
    """A completion request, as far as the sandbox reads it. A prompt of tokens counts as an empty text."""

    messages: list[Message] = msgspec.field(default_factory=list)
    prompt: str | list[str | int | list[int]] = ""
    echo: bool = False

    def prompts(self) -> list[str]:
        """The text of each prompt."""
        if isinstance(self.prompt, str) or not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt if isinstance(self.prompt, str) else ""]
        return [each if isinstance(each, str) else "" for each in self.prompt]

    def last_user_text(self) -> str:
        """The text of the last prompt."""
        return self.prompts()[-1]


class CompletionAnswer(ChatAnswer):
    """The answers to all prompts, `n` for each, as choices of one."""

    def __init__(self, request: CompletionRequest, script: Script, *, generation_id: str, created: int) -> None:
        prompts, each = request.prompts(), request.n or 1
        self._echoes = [prompt for prompt in prompts for _ in range(each)] if request.echo else []
        asked = [Message(role="user", content=prompt) for prompt in prompts]
        chat = msgspec.structs.replace(request, messages=asked, n=each * len(prompts))
        super().__init__(chat, script, generation_id=generation_id, created=created)

    def whole(self) -> bytes:
        """The answer to a call without a stream."""
        return msgspec.json.encode(self._as_text(msgspec.json.decode(super().whole()), "message"))

    def events(self) -> list[bytes]:
        """The answer as server-sent events."""
        return [self._as_event(event) for event in super().events()]

    def _as_event(self, event: bytes) -> bytes:
        data = event[len(b"data: ") :].strip()
        if data == b"[DONE]":
            return event
        return b"data: " + msgspec.json.encode(self._as_text(msgspec.json.decode(data), "delta")) + b"\n\n"

    def _as_text(self, chat: dict[str, object], part: str) -> dict[str, object]:
        choices = chat.get("choices")
        if not isinstance(choices, list):
            return chat  # an error
        return {**chat, "object": "text_completion", "choices": [self._choice(choice, part) for choice in choices]}

    def _choice(self, choice: dict[str, object], part: str) -> dict[str, object]:
        said = choice.pop(part)
        words = said if isinstance(said, dict) else {}
        index = choice.get("index")
        starts = "role" in words and bool(self._echoes) and isinstance(index, int)
        echo = self._echoes[index] + " " if starts and isinstance(index, int) else ""
        return {**choice, "text": echo + words.get("content", "")}
