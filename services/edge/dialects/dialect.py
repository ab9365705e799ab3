"""A dialect: a declarative description of what one surface's clients expect, and the one renderer for all of them.

Everything that differs between the seed systems is data here; nothing else in edge knows a dialect by name. Codes come
in from the closed list of `chassis.errors`; a dialect says which status, type, code and words its clients see.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import msgspec

from chassis.errors import Code, TollbridgeError

MAX_RETRY_AFTER_S = 60
RETRY_AFTER_S = 1
"""Of a refusal that doesn't say for itself when to come again, where its clients are told a time."""
_NEVER_RETRIED = frozenset({Code.INSUFFICIENT_CREDITS, Code.SPEND_CAP_REACHED})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """An error as a dialect's body function sees it: status, type, code and words already chosen.

    `reason` is the code of the closed list, whatever the dialect calls it; `explanation` is what the error itself said,
    where the dialect has words of its own. `details` may hold `balance_nano_usd` and `affordable_nano_usd`.
    `request_id` is empty where nobody knows it.
    """

    status: int
    type: str
    code: str
    message: str
    param: str | None
    details: Mapping[str, str]
    reason: str
    explanation: str
    top_up_url: str
    request_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RenderedError:
    """An HTTP answer, ready to send."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one kind of client is answered.

    Errors: `statuses` covers every code. `types` gives the type by status, `codes` renames codes, `required` names the
    codes of fields that a request can't do without. `messages` are the document's own words, with `{seconds}` for the
    time to wait; all else is said as it was raised. `error_body` makes the JSON, which is also the last event of a
    stream that fails, under the name `error_event` if its events have names. Who has no money is pointed to
    `top_up_url`. `request_id_headers` are where the request's id stands.

    Answers: `always_usage_chunk` sends the usage chunk in every stream. `always_rate_limits` states limits in every
    answer, also where nothing is limited. `images_at_once` answers an accepted image job without waiting for it.

    Models: `models_public` lists them without a key, in exactly the `model_fields`. Prices by token are shown for
    `pricing_tokens` of them and for the classes in `pricing_classes`.
    """

    name: str
    statuses: Mapping[Code, int]
    types: Mapping[int, str]
    codes: Mapping[Code, str] = dataclasses.field(default_factory=dict)
    required: Mapping[str, str] = dataclasses.field(default_factory=dict)
    messages: Mapping[Code, str] = dataclasses.field(default_factory=dict)
    error_body: Callable[[ErrorView], object]
    error_event: str = ""
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)
    always_usage_chunk: bool = False
    always_rate_limits: bool = False
    images_at_once: bool = False
    models_public: bool = False
    model_fields: tuple[str, ...] = ("id", "object", "owned_by")
    pricing_tokens: int = 1_000_000
    pricing_classes: tuple[str, ...] = ("input", "cached_input", "output")
    top_up_url: str = ""

    def view(self, error: TollbridgeError, *, request_id: str = "") -> ErrorView:
        """The error in this dialect's words."""
        status = self.statuses[error.code]
        param = error.details.get("param")
        code = self.codes.get(error.code, error.code.value)
        if error.code is Code.INVALID_REQUEST and param is not None:
            code = self.required.get(param, code)
        return ErrorView(
            status=status,
            type=self.types.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            code=code,
            message=_sendable(self._words(error)),
            param=None if param is None else _sendable(param),
            details=error.details,
            reason=error.code.value,
            explanation=_sendable(error.message),
            top_up_url=self.top_up_url,
            request_id=request_id,
        )

    def _words(self, error: TollbridgeError) -> str:
        own = self.messages.get(error.code)
        if own is not None:
            return own.format(seconds=_seconds(error.retry_after_s))
        if error.code is Code.INSUFFICIENT_CREDITS and self.top_up_url:
            return f"{error.message} Add credits at {self.top_up_url}"
        return error.message

    def render_error(self, error: TollbridgeError, *, request_id: str) -> RenderedError:
        """The whole answer to a request that was refused or failed before its first byte."""
        view = self.view(error, request_id=request_id)
        body = msgspec.json.encode(self.error_body(view))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *self.name_request(request_id),
        ]
        if view.status in (429, 503) or (view.status == 409 and error.retry_after_s is not None):
            headers.append((b"retry-after", str(_seconds(error.retry_after_s)).encode()))
        if error.code in _NEVER_RETRIED or error.details.get("should_retry") == "false":
            headers.append((b"x-should-retry", b"false"))
        return RenderedError(status=view.status, headers=headers, body=body)

    def name_request(self, request_id: str) -> list[tuple[bytes, bytes]]:
        """The headers that every answer has its request's id in."""
        return [(name, request_id.encode()) for name in self.request_id_headers]

    def stream_error(self, error: TollbridgeError, *, request_id: str = "") -> bytes:
        """The event that ends a stream which fails after its first byte; no `[DONE]` follows it."""
        event = f"event: {self.error_event}\n".encode() if self.error_event else b""
        body = self.error_body(self.view(error, request_id=request_id))
        return event + b"data: " + msgspec.json.encode(body) + b"\n\n"


def _seconds(retry_after_s: float | None) -> int:
    """Whole seconds within a minute."""
    return min(MAX_RETRY_AFTER_S, max(1, math.ceil(RETRY_AFTER_S if retry_after_s is None else retry_after_s)))


def _sendable(text: str) -> str:
    """The text without lone surrogates, which JSON may bring in and UTF-8 has no bytes for."""
    return text.encode(errors="replace").decode()
