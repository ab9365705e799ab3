"""Errors that a provider puts inside an answer whose status said success."""

import msgspec

from upstream.attempt import classify, provider_message
from upstream.outcome import AttemptFailed

_UNNAMED_STATUS = 502
_STATUSES = frozenset(str(status) for status in range(400, 600))


class _Error(msgspec.Struct, frozen=True):
    code: int | str | None = None
    status: int | str | None = None


def read_error(raw: msgspec.Raw | bytes) -> tuple[str, int | None]:
    """Message and status of an `error` object; its code counts as a status when it can be one."""
    try:
        error = msgspec.json.decode(raw, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = _Error()
    statuses = [int(code) for code in (str(error.code), str(error.status)) if code in _STATUSES]
    message = provider_message(bytes(raw)) or "the provider failed inside its answer"
    return message, statuses[0] if statuses else None


def error_failure(message: str, status: int | None) -> AttemptFailed:
    """Such an error as the failure of its attempt, as if the status had said it."""
    return classify(status or _UNNAMED_STATUS, {}, msgspec.json.encode({"message": message}))
