"""OpenAI's chat completions: the call, and the whole answer. Streams are read in `chat_stream`.

A request is kept as its top-level fields, each still the bytes that the client sent, so that unknown fields travel on
untouched and a large conversation is never parsed here.
"""

import dataclasses
from collections.abc import Mapping

import msgspec

from pricing.tokens import Tokens
from upstream.client import HttpCall
from upstream.openai.call_numbers import mend_finish
from upstream.openai.chat_stream import FAILED, texts_of
from upstream.openai.errors import error_failure, read_error
from upstream.openai.shapes import lacks_head, made_head, mend_calls, mend_content, with_head
from upstream.openai.usage_block import UsageBlock
from upstream.outcome import ProviderMisbehaved
from upstream.route import Route
from upstream.usage import Captured, UsageLimits

ChatBody = Mapping[str, object]
"""A request by its top-level fields; values are plain or `msgspec.Raw`."""

_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL = b"null"


def decode_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """A JSON object by its top-level fields, their values unread. Raises msgspec.DecodeError."""
    return _FIELDS.decode(body)


def prepare(body: ChatBody, route: Route, *, max_tokens: int | None, stream: bool, request_id: str) -> HttpCall:
    """The provider's call for a client's request: its model name, our limit in its field, usage asked for.

    `max_tokens` None sends no limit at all: only for models whose output has no price.
    """
    fields = dict(body)
    for name in _LIMIT_FIELDS:
        fields.pop(name, None)
    fields["model"] = route.provider_model
    if max_tokens is not None:
        fields[route.max_tokens_field] = max_tokens
    set_stream(fields, route, stream=stream)
    return json_call(route, "/chat/completions", fields, request_id=request_id, stream=stream)


def set_stream(fields: dict[str, object], route: Route, *, stream: bool) -> None:
    """Asks for a stream or for none, in `fields`; for a stream's usage wherever the provider takes that question."""
    fields.pop("stream", None)
    options = fields.pop("stream_options", None)
    if not stream:
        return
    fields["stream"] = True
    if not route.without_stream_options:
        fields["stream_options"] = {**object_of(options), "include_usage": True}


def json_call(
    route: Route, path: str, body: object, *, request_id: str, stream: bool = False, is_rare: bool = False
) -> HttpCall:
    """A POST of JSON in the way of every OpenAI endpoint, the credential as Bearer. `is_rare` as HttpCall has it."""
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "x-request-id": request_id,
    }
    if route.credential:
        headers["authorization"] = f"Bearer {route.credential}"
    url, encoded = route.base_url + path, msgspec.json.encode(body)
    return HttpCall(method="POST", url=url, headers=headers, body=encoded, is_rare=is_rare)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """A whole chat completion, read."""

    captured: Captured
    usage: UsageBlock
    fields: dict[str, msgspec.Raw]
    model: str

    def render(self, *, tokens: Tokens, cost: str | None) -> bytes:
        """The body for the client, with the public model id and `cost` in its usage."""
        shown = {**self.fields, "model": self.model, "usage": self.usage.render(tokens=tokens, cost=cost)}
        return msgspec.json.encode(shown)

    def text(self) -> str:
        """All text in it, for counting."""
        return "".join(text for choice in _choices(self.fields) for text in texts_of(choice.get("message")))


def read_answer(
    body: bytes,
    *,
    model: str,
    limits: UsageLimits | None = None,
    kind: str = "chat.completion",
    mends_finish: bool = True,
) -> ChatAnswer:
    """Reads a whole answer with status 2xx. Raises AttemptFailed when it is an error after all, or no answer.

    Without `mends_finish` a `stop` after calls stays one.
    """
    try:
        fields = decode_fields(body)
        choices = _choices(fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProviderMisbehaved("the provider's answer is no chat completion") from error
    if bytes(fields.get("error", _NULL)) != _NULL:
        raise error_failure(*read_error(fields["error"]))
    if not choices:
        raise ProviderMisbehaved("the provider's answer has no choices")
    for choice in choices:
        if choice.get("finish_reason") == FAILED:
            raise error_failure(*read_error(msgspec.json.encode(choice.get("error"))))
    mended = [choice for choice in choices if _mend(choice, mends_finish)]
    if mended:
        fields["choices"] = msgspec.Raw(msgspec.json.encode(choices))
    usage = UsageBlock(limits)
    usage.read(fields.pop("usage", _NULL))
    finish = choices[0].get("finish_reason")
    captured = Captured(
        tokens=usage.tokens,
        so_far=usage.tokens,
        reported_cost_nano_usd=usage.reported_cost_nano_usd,
        generation_id=_text(fields.get("id")),
        finish_reason=finish if isinstance(finish, str) else "",
        complete=True,
        implausible=usage.implausible,
        beyond_input=usage.beyond_input,
    )
    if lacks_head(fields):
        fields = with_head(fields, kind=kind, made=made_head(kind))
    return ChatAnswer(captured=captured, usage=usage, fields=fields, model=model)


def _mend(choice: dict[str, object], mends_finish: bool) -> bool:
    """Puts right what is not OpenAI's in a choice; whether anything was."""
    message = choice.get("message")
    finish, content, calls = mends_finish and mend_finish(choice), mend_content(message), mend_calls(message)
    return finish or content or calls


def _choices(fields: Mapping[str, msgspec.Raw]) -> list[dict[str, object]]:
    raw = fields.get("choices", _NULL)
    return msgspec.json.decode(raw, type=list[dict[str, object]] | None) or []


def _text(raw: msgspec.Raw | None) -> str:
    value: object = msgspec.json.decode(raw) if raw is not None else ""
    return value[:200] if isinstance(value, str) else ""


def insists_on_a_tool(body: ChatBody) -> bool:
    """Whether a tool must be called by its name: such an answer OpenAI itself ends with `stop`."""
    return object_of(body.get("tool_choice")).get("type") in ("function", "custom")


def object_of(value: object) -> dict[str, object]:
    """A field that should be an object, plain or raw; anything else counts as an empty one."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    return value if isinstance(value, dict) else {}
