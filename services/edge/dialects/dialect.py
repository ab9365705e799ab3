"""A dialect: a declarative description of what one surface's clients expect, and the one renderer for all of them.

Everything that differs between the seed systems is data here; nothing else in edge knows a dialect by name. Codes come
in from the closed list of `chassis.errors`; a dialect says which status, type and code its clients see.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping

from chassis.errors import Code, TollbridgeError

MAX_RETRY_AFTER_S = 60
RETRY_AFTER_S = 1
"""Of a 503 that doesn't say for itself when to come again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """An error as a dialect's body function sees it: status, type and code already chosen."""

    status: int
    type: str
    code: str
    message: str
    param: str | None
    details: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RenderedError:
    """An HTTP answer, ready to send."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one kind of client is answered.

    `statuses` covers every code. `types` gives the type by status, `codes` renames codes. `error_body` makes the JSON.
    `always_usage_chunk` sends the usage chunk in every stream; `models_public` lists models without a key;
    `model_fields` names the fields of a model that its list shows. Who has no money is pointed to `top_up_url`.
    """

    name: str
    statuses: Mapping[Code, int]
    types: Mapping[int, str]
    codes: Mapping[Code, str]
    error_body: Callable[[ErrorView], object]
    always_usage_chunk: bool = False
    models_public: bool = False
    model_fields: tuple[str, ...] = ("id", "object", "owned_by")
    top_up_url: str = ""

    def view(self, error: TollbridgeError) -> ErrorView:
        """The error in this dialect's words."""
        status = self.statuses[error.code]
        message = error.message
        if error.code is Code.INSUFFICIENT_CREDITS and self.top_up_url:
            message = f"{message} Add credits at {self.top_up_url}"
        return ErrorView(
            status=status,
            type=self.types.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            code=self.codes.get(error.code, error.code.value),
            message=message,
            param=error.details.get("param"),
            details=error.details,
        )

    def render_error(self, error: TollbridgeError, *, request_id: str) -> RenderedError:
        """The whole answer to a request that was refused or failed before its first byte."""
        view = self.view(error)
        body = json.dumps(self.error_body(view), separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
        ]
        retry_after_s = RETRY_AFTER_S if error.retry_after_s is None and view.status == 503 else error.retry_after_s
        if retry_after_s is not None and view.status in (409, 429, 503):
            seconds = min(MAX_RETRY_AFTER_S, max(1, math.ceil(retry_after_s)))
            headers.append((b"retry-after", str(seconds).encode()))
        if view.status == 402 or error.details.get("should_retry") == "false":
            headers.append((b"x-should-retry", b"false"))
        return RenderedError(status=view.status, headers=headers, body=body)

    def stream_error(self, error: TollbridgeError) -> bytes:
        """The event that ends a stream which fails after its first byte; no `[DONE]` follows it."""
        body = json.dumps(self.error_body(self.view(error)), separators=(",", ":")).encode()
        return b"data: " + body + b"\n\n"
