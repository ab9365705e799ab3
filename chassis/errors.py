"""The one error type, and the closed list of codes that every service may answer with.

A code is the promise: it crosses gRPC intact (`chassis.rpc`); only edge's dialects turn it into a status and a body.
Adding a code means adding it here, to its gRPC status in `chassis.rpc` and to every dialect, which a test compares.
"""

import enum
from collections.abc import Mapping


class Code(enum.StrEnum):
    """Why a call was refused or failed. The value is what travels and what logs show."""

    # The request itself is wrong.
    INVALID_REQUEST = "invalid_request"
    REQUEST_TOO_LARGE = "request_too_large"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    MAX_COST_EXCEEDED = "max_cost_exceeded"
    PROVIDER_REJECTED = "provider_rejected"
    CONFLICT = "conflict"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    # Who asks may not.
    INVALID_API_KEY = "invalid_api_key"
    CUSTOMER_SUSPENDED = "customer_suspended"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    PERMISSION_DENIED = "permission_denied"
    # Something is used up.
    INSUFFICIENT_CREDITS = "insufficient_credits"
    SPEND_CAP_REACHED = "spend_cap_reached"
    BALANCE_RESERVED = "balance_reserved"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    CONCURRENCY_LIMIT_EXCEEDED = "concurrency_limit_exceeded"
    # Money that has already moved, or can't yet.
    NOT_SETTLED = "not_settled"
    ALREADY_REFUNDED = "already_refunded"
    PAYMENT_METHOD_UNAVAILABLE = "payment_method_unavailable"
    # A provider failed us.
    PROVIDER_ERROR = "provider_error"
    PROVIDER_NOT_CONFIGURED = "provider_not_configured"
    # We can't, for now.
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


class TollbridgeError(Exception):
    """A refusal or failure with a code from the closed list.

    `message` is shown to the caller, so it holds no secret and no internal address. `details` are short strings that a
    dialect may render (`param`, `affordable_tokens`, `balance_nano_usd` ...). `retry_after_s` is set only when trying
    again can help.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        details: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: dict[str, str] = dict(details or {})
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"TollbridgeError({self.code.value}: {self.message})"
