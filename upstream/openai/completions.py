"""OpenAI's legacy completions: the call, the whole answer, the stream. They are chats whose choices have a text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from pricing.tokens import Tokens
from upstream.client import HttpCall
from upstream.kept_text import KeptText
from upstream.openai import chat
from upstream.openai.chat_stream import ChatStream
from upstream.route import Route
from upstream.usage import Captured, UsageLimits


def prepare(body: chat.ChatBody, route: Route, *, max_tokens: int, stream: bool, request_id: str) -> HttpCall:
    """The provider's call for a client's request: its model name, our limit, usage asked for."""
    fields = {**body, "model": route.provider_model, "max_tokens": max_tokens}
    chat.set_stream(fields, route, stream=stream)
    return chat.json_call(route, "/completions", fields, request_id=request_id, stream=stream, is_rare=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompletionAnswer:
    """A whole completion, read. `echoed` are the prompts that its texts begin with."""

    answer: chat.ChatAnswer
    echoed: Sequence[str]

    @property
    def captured(self) -> Captured:
        """What it said about itself."""
        return self.answer.captured

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id and `cost` in its usage."""
        return self.answer.render(tokens=tokens, cost=cost)

    def text(self) -> str:
        """All text in it that was generated, for counting."""
        choices = msgspec.json.decode(self.answer.fields["choices"], type=list[dict[str, object]])
        texts = [text for choice in choices if isinstance(text := choice.get("text"), str)]
        return without("".join(texts), self.echoed)


def read_answer(
    body: bytes, *, model: str, limits: UsageLimits | None = None, echoed: Sequence[str] = ()
) -> CompletionAnswer:
    """Reads a whole answer with status 2xx. Raises AttemptFailed when it is an error after all, or no answer."""
    answer = chat.read_answer(body, model=model, limits=limits, kind="text_completion")
    return CompletionAnswer(answer=answer, echoed=echoed)


class CompletionStream(ChatStream):
    """One stream's `StreamReader`."""

    __slots__ = ("_echoed",)
    kind: ClassVar[str] = "text_completion"
    nothing_more: ClassVar[Mapping[str, object]] = {"text": ""}
    text_begins: ClassVar[tuple[bytes, bytes]] = (b'"text":', b'"')

    def __init__(
        self, *, model: str, include_usage: bool, limits: UsageLimits | None = None, echoed: Sequence[str] = ()
    ) -> None:
        super().__init__(model=model, include_usage=include_usage, limits=limits)
        self._echoed = echoed
        self._kept_text = KeptText(limits, besides=sum(map(len, echoed)))

    def delivered_text(self) -> str:
        """All text handed out so far that was generated. Slow: call it off the loop."""
        return without(super().delivered_text(), self._echoed)


def without(text: str, echoed: Sequence[str]) -> str:
    """The text without each prompt that is repeated in it: it was read, not generated."""
    for prompt in echoed:
        text = text.replace(prompt, "", 1)
    return text
