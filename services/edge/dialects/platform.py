"""Platform: one word for type and code, images that are answered at once, models with what they cost in credits."""

from chassis.errors import Code
from services.edge.dialects import openai
from services.edge.dialects.dialect import Dialect, ErrorView


def error_body(view: ErrorView) -> object:
    """`{error: {message, type, code}}`, both the same."""
    return {"error": {"message": view.message, "type": view.code, "code": view.code}}


DIALECT = Dialect(
    name="platform",
    statuses={**openai.STATUSES, Code.MODEL_NOT_FOUND: 400},
    types=openai.TYPES,
    codes={
        **openai.CODES,
        Code.MODEL_NOT_FOUND: "model_not_available",
        Code.PROVIDER_REJECTED: "invalid_request",
        Code.CUSTOMER_SUSPENDED: "api_disabled",
        Code.INTERNAL: "internal_error",
    },
    required={"model": "model_required", "messages": "messages_required", "prompt": "prompt_required"},
    messages={Code.MODEL_NOT_FOUND: "Model is not available"},
    error_body=error_body,
    images_at_once=True,
    model_fields=("id", "object", "owned_by", "display_name", "category", "capabilities", "credit_cost"),
)
