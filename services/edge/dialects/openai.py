"""The default dialect: OpenAI's error object, statuses and types."""

from chassis.errors import Code
from services.edge.dialects.dialect import Dialect, ErrorView

STATUSES = {
    Code.INVALID_REQUEST: 400,
    Code.REQUEST_TOO_LARGE: 413,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.MODEL_NOT_FOUND: 404,
    Code.MAX_COST_EXCEEDED: 400,
    Code.PROVIDER_REJECTED: 400,
    Code.CONFLICT: 409,
    Code.IDEMPOTENCY_MISMATCH: 422,
    Code.INVALID_API_KEY: 401,
    Code.CUSTOMER_SUSPENDED: 403,
    Code.ADDRESS_NOT_ALLOWED: 403,
    Code.MODEL_NOT_ALLOWED: 403,
    Code.PERMISSION_DENIED: 403,
    Code.INSUFFICIENT_CREDITS: 402,
    Code.SPEND_CAP_REACHED: 402,
    Code.BALANCE_RESERVED: 503,
    Code.RATE_LIMIT_EXCEEDED: 429,
    Code.CONCURRENCY_LIMIT_EXCEEDED: 429,
    Code.NOT_SETTLED: 409,
    Code.ALREADY_REFUNDED: 409,
    Code.PAYMENT_METHOD_UNAVAILABLE: 503,
    Code.PROVIDER_ERROR: 502,
    Code.PROVIDER_NOT_CONFIGURED: 502,
    Code.OVERLOADED: 503,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.INTERNAL: 500,
}
"""Status by code. Other dialects begin with these and change what their document changes."""

CODES = {Code.CONCURRENCY_LIMIT_EXCEEDED: "rate_limit_exceeded"}
"""Clients know one code for every 429; its message says which limit it was."""

TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}


def error_body(view: ErrorView) -> object:
    """`{error: {message, type, param, code}}`."""
    return {
        "error": {"message": view.message, "type": view.type, "param": view.param, "code": view.code},
    }


DIALECT = Dialect(
    name="openai",
    statuses=STATUSES,
    types=TYPES,
    codes=CODES,
    error_body=error_body,
    model_fields=("id", "object", "created", "owned_by", "pricing", "context"),
)
