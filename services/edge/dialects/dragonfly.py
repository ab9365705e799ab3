"""Dragonfly: errors whose code is their status, 403 for no money, prices per 1,000 tokens in a list without a key."""

from chassis.errors import Code
from services.edge.dialects import openai
from services.edge.dialects.dialect import Dialect, ErrorView


def error_body(view: ErrorView) -> object:
    """`{error: {message, type, code}}` with the status as code.

    `reason` says more exactly why, `param` where, `detail` what the document's own words leave out.
    """
    body = {"message": view.message, "type": view.type, "code": view.status, "reason": view.reason}
    if view.param is not None:
        body["param"] = view.param
    if view.explanation != view.message:
        body["detail"] = view.explanation
    return {"error": body}


DIALECT = Dialect(
    name="dragonfly",
    statuses={
        **openai.STATUSES,
        Code.MODEL_NOT_FOUND: 400,
        Code.INSUFFICIENT_CREDITS: 403,
        Code.SPEND_CAP_REACHED: 403,
    },
    types={
        400: "bad_request",
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        405: "method_not_allowed",
        409: "conflict",
        413: "request_too_large",
        422: "unprocessable_request",
        429: "rate_limit_exceeded",
        500: "internal_error",
        502: "upstream_error",
        503: "service_unavailable",
        504: "upstream_timeout",
    },
    messages={Code.INSUFFICIENT_CREDITS: "Insufficient balance"},
    error_body=error_body,
    always_rate_limits=True,
    models_public=True,
    model_fields=("id", "object", "owned_by", "pricing"),
    pricing_tokens=1_000,
    pricing_classes=("input", "output"),
)
