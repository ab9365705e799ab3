"""Techstone: types that end in `_error`, 403 for no money, 503 for what a provider did, limits in every answer."""

from chassis.errors import Code
from services.edge.dialects import openai
from services.edge.dialects.dialect import Dialect, ErrorView

OVER_LIMIT = "You have exceeded your rate limit. Please retry after {seconds} seconds."


def error_body(view: ErrorView) -> object:
    """`{error: {type, code, message, param}}`."""
    return {"error": {"type": view.type, "code": view.code, "message": view.message, "param": view.param}}


DIALECT = Dialect(
    name="techstone",
    statuses={
        **openai.STATUSES,
        Code.INSUFFICIENT_CREDITS: 403,
        Code.SPEND_CAP_REACHED: 403,
        Code.PROVIDER_ERROR: 503,
        Code.PROVIDER_NOT_CONFIGURED: 503,
        Code.DEADLINE_EXCEEDED: 503,
    },
    types={
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        405: "method_not_allowed_error",
        409: "conflict_error",
        413: "request_too_large_error",
        422: "invalid_request_error",
        429: "rate_limit_error",
        500: "server_error",
        503: "overloaded_error",
    },
    codes={**openai.CODES, Code.INSUFFICIENT_CREDITS: "insufficient_balance"},
    messages={
        Code.RATE_LIMIT_EXCEEDED: OVER_LIMIT,
        Code.CONCURRENCY_LIMIT_EXCEEDED: OVER_LIMIT,
    },
    error_body=error_body,
    always_rate_limits=True,
)
