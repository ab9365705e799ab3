"""What the sandbox is asked: the requests as far as it reads them, and the directive that scripts its behaviour."""

from typing import Annotated

import msgspec

from upstream.sandbox.schema_example import example_of

DIRECTIVE = "#sandbox"
_Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
_Pause = Annotated[int, msgspec.Meta(ge=0, le=600_000)]


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of a tool; `arguments` is JSON as a text, as it is on the wire."""

    name: str
    arguments: str = "{}"


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request's scripted behaviour. Left out, each field does what a well-behaved provider would.

    `chunks` content events carry `output_tokens` words between them, `gap_ms` apart. `fail_after_chunks` breaks the
    connection after so many events (a whole answer: at once). `status` refuses with it, `message` and `retry_after_s`.
    The `…_tokens` fields say what the usage block reports; `usage: false` leaves it out; `error_after_chunks` sends an
    error event and ends. `calls` calls tools, unless their results have just come; then there is only the text that
    `text` or `output_tokens` asks for.
    """

    chunks: _Count | None = None
    gap_ms: _Pause = 0
    first_byte_ms: _Pause = 0
    output_tokens: _Count | None = None
    prompt_tokens: _Count | None = None
    cached_tokens: _Count = 0
    reasoning_tokens: _Count = 0
    fail_after_chunks: _Count | None = None
    error_after_chunks: _Count | None = None
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    message: str = "the sandbox was told to refuse"
    retry_after_s: float = 0.0
    usage: bool = True
    text: str | None = None
    calls: list[Call] = []


class StreamOptions(msgspec.Struct, frozen=True):
    """OpenAI's `stream_options`."""

    include_usage: bool = False


class Message(msgspec.Struct, frozen=True):
    """One message; its content is text or a list of parts."""

    role: str = ""
    content: str | list[dict[str, object]] | None = None

    def text(self) -> str:
        """All text in it."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part.get("text", "")) for part in self.content or [])


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat request, as far as the sandbox reads it."""

    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, object]] | None = None
    tool_choice: str | dict[str, object] | None = None
    response_format: dict[str, object] | None = None

    def script(self) -> Script:
        """What to do: as the user's text says, and else what the request leaves no choice about.

        Raises msgspec.MsgspecError when the directive can't be read.
        """
        script = script_of(self.last_user_text())
        if self.messages and self.messages[-1].role == "tool":
            script = msgspec.structs.replace(script, calls=[])
        if script.calls or script.text is not None:
            return script
        forced = self._forced_call()
        if forced is not None:
            return msgspec.structs.replace(script, calls=[forced])
        wanted = self._wanted_json()
        return script if wanted is None else msgspec.structs.replace(script, text=wanted)

    def _forced_call(self) -> Call | None:
        """The call that `tool_choice` insists on, its arguments fit for the tool's schema."""
        named = self.tool_choice.get("function") if isinstance(self.tool_choice, dict) else None
        if named is None and self.tool_choice != "required":
            return None
        for tool in self.tools or []:
            function = tool.get("function")
            if isinstance(function, dict) and (
                not isinstance(named, dict) or function.get("name") == named.get("name")
            ):
                arguments = example_of(function.get("parameters")) or {}
                return Call(name=str(function.get("name")), arguments=msgspec.json.encode(arguments).decode())
        return None

    def _wanted_json(self) -> str | None:
        """The answer that `response_format` insists on."""
        wanted = self.response_format or {}
        if wanted.get("type") == "json_object":
            return "{}"
        named = wanted.get("json_schema")
        if wanted.get("type") != "json_schema" or not isinstance(named, dict):
            return None
        return msgspec.json.encode(example_of(named.get("schema"))).decode()

    def last_user_text(self) -> str:
        """The text of the last message that a user sent."""
        return next((message.text() for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def limit(self) -> int | None:
        """Output tokens at most."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def script_of(text: str) -> Script:
    """The directive on a line of `text`, or the default. Raises msgspec.MsgspecError when it can't be read."""
    start = text.find(DIRECTIVE)
    if start < 0:
        return Script()
    line = text[start + len(DIRECTIVE) :].split("\n", 1)[0].strip()
    return msgspec.json.decode(line, type=Script)
