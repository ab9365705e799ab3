"""Anthropic's errors, for the clients of `/messages` whatever the surface's dialect; the status stays the surface's."""

import dataclasses

from chassis.errors import Code
from services.edge.dialects.dialect import Dialect, ErrorView

TYPES = {
    Code.REQUEST_TOO_LARGE: "request_too_large",
    Code.NOT_FOUND: "not_found_error",
    Code.MODEL_NOT_FOUND: "not_found_error",
    Code.CONFLICT: "conflict_error",
    Code.INVALID_API_KEY: "authentication_error",
    Code.CUSTOMER_SUSPENDED: "permission_error",
    Code.ADDRESS_NOT_ALLOWED: "permission_error",
    Code.MODEL_NOT_ALLOWED: "permission_error",
    Code.PERMISSION_DENIED: "permission_error",
    Code.INSUFFICIENT_CREDITS: "billing_error",
    Code.SPEND_CAP_REACHED: "billing_error",
    Code.RATE_LIMIT_EXCEEDED: "rate_limit_error",
    Code.CONCURRENCY_LIMIT_EXCEEDED: "rate_limit_error",
    Code.BALANCE_RESERVED: "overloaded_error",
    Code.OVERLOADED: "overloaded_error",
    Code.UNAVAILABLE: "overloaded_error",
    Code.DEADLINE_EXCEEDED: "timeout_error",
}
"""Anthropic's type by code: their statuses are theirs, so a type goes by what happened and not by the status here."""


def error_body(view: ErrorView) -> object:
    """`{type: error, error: {type, message}, request_id}`; the message names the field that is to blame. `details`
    with an `error_code` are there where SDKs act upon it."""
    kind = TYPES.get(Code(view.reason), "api_error" if view.status >= 500 else "invalid_request_error")
    named = view.param is None or view.param in view.message
    message = view.message if named else f"{view.param}: {view.message}"
    error: dict[str, object] = {"type": kind, "message": message}
    if "error_code" in view.details:
        error["details"] = {"error_code": view.details["error_code"]}
    return {"type": "error", "error": error, "request_id": view.request_id or None}


def messages_voice(dialect: Dialect) -> Dialect:
    """The surface's dialect, as `/messages` speaks it."""
    return dataclasses.replace(
        dialect,
        error_body=error_body,
        error_event="error",
        request_id_headers=(b"request-id", b"x-request-id"),
    )
