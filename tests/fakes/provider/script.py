"""What one request is told to do: the `#script {…}` in its last user message, over deterministic defaults."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

MARK = "#script"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One answer. Tokens are what the provider reports; in OpenAI's shape `input_tokens` contains the cached ones, in
    Anthropic's it stands beside them. `chunks` is how many pieces of text a stream has, or words a whole answer.
    """

    chunks: int = 5
    gap_ms: float = 0
    first_byte_ms: float = 0
    input_tokens: int = 11
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    output_tokens: int = 7
    cost: float | None = None  # `usage.cost`, as OpenRouter reports it
    status: int = 200
    status_times: int | None = None  # so often for this very text, and then it answers
    retry_after: float | None = None
    message: str = "scripted failure"
    fail_after_chunks: int | None = None  # the connection breaks
    error_after_chunks: int | None = None  # an error event in the stream, which then ends
    hang_after_chunks: int | None = None  # silence until the caller leaves
    no_usage: bool = False
    usage: dict[str, Any] | None = None  # overrides fields of the usage object, however absurd; null leaves one out
    usage_times: int = 1  # the usage chunk, in Anthropic's streams the last delta, comes so often
    usage_running: bool = False  # every piece carries the usage so far (OpenAI's streams)
    usage_late: bool = False  # it comes after the end mark (streams)
    no_start_usage: bool = False  # the first event says nothing of the input (Anthropic's streams)
    malformed: bool = False  # bytes that are no JSON
    header_bytes: int = 0  # a header of that size goes with the answer
    text: str = ""  # what the pieces are made of, else `word1 word2 …`
    finish: str = "stop"
    thinking: str = ""  # what is thought before the text
    calls: list[dict[str, Any]] = field(default_factory=list)  # tools called after it: `name`, `arguments`
    echo: list[str] = field(default_factory=list)  # the text is these fields of the request, as a JSON object

    @property
    def finish_word(self) -> str:
        """Why it ends: calls are a reason of their own."""
        return "tool_calls" if self.calls and self.finish == "stop" else self.finish

    def piece(self, number: int) -> str:
        """The text of the piece with this number, from 0."""
        return self.text or f"word{number + 1} "

    @property
    def whole_text(self) -> str:
        """All pieces as one."""
        return "".join(self.piece(number) for number in range(self.chunks))


def read_script(body: Mapping[str, Any], *, key: str = "") -> Script:
    """The script of a chat, a message or a prompt. An unknown field is an error: a typo must not make a test idle.

    What stands in its `keys` under the caller's own key goes before the rest, so that accounts can differ.
    """
    text = _last_text(body)
    start = text.rfind(MARK)
    if start < 0:
        return Script()
    given, _ = json.JSONDecoder().raw_decode(text[start + len(MARK) :].lstrip())
    given |= given.pop("keys", {}).get(key, {})
    unknown = set(given) - {each.name for each in fields(Script)}
    if unknown:
        raise ValueError(f"unknown script fields {sorted(unknown)}")
    if body.get("messages") and body["messages"][-1].get("role") == "tool":
        given.pop("calls", None)  # their results have come
    script = Script(**given)
    if not script.echo:
        return script
    return replace(script, chunks=1, text=json.dumps({name: body.get(name) for name in script.echo}))


def _last_text(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if prompt is not None:
        return prompt if isinstance(prompt, str) else "\n".join(map(str, prompt))
    users = [message for message in body.get("messages", ()) if message.get("role") == "user"]
    return _text(users[-1].get("content")) if users else ""


def _text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or ())
