"""Dropstone: OpenAI's errors, but for a flat 402 that says what is left, and usage in every stream."""

import msgspec

from chassis.errors import Code
from pricing.prices import usd_number
from services.edge.dialects import openai
from services.edge.dialects.dialect import Dialect, ErrorView

HEADLINES = {
    Code.INSUFFICIENT_CREDITS.value: "Insufficient credits",
    Code.SPEND_CAP_REACHED.value: "Spend cap reached",
}


def error_body(view: ErrorView) -> object:
    """OpenAI's body, or `{error, balance, message, topUpUrl}` for who has no money; for a spend cap with its `code`."""
    headline = HEADLINES.get(view.reason)
    if headline is None:
        return openai.error_body(view)
    balance = view.details.get("balance_nano_usd")
    is_empty = balance is not None and int(balance) <= 0
    words = "Your credit balance is empty." if is_empty else view.explanation
    told = {} if view.reason == Code.INSUFFICIENT_CREDITS.value else {"code": view.reason}
    return {
        "error": headline,
        **told,
        "balance": None if balance is None else msgspec.Raw(usd_number(int(balance)).encode()),
        "message": f"{words} Top up at {view.top_up_url} to continue." if view.top_up_url else words,
        "topUpUrl": view.top_up_url or None,
    }


DIALECT = Dialect(
    name="dropstone",
    statuses={**openai.STATUSES, Code.MODEL_NOT_FOUND: 400},
    types=openai.TYPES,
    codes=openai.CODES,
    error_body=error_body,
    always_usage_chunk=True,
    model_fields=("id", "object", "display_name", "owned_by"),
)
