"""`POST /quote`: what the same body would cost if it were sent to run."""

from typing import Any

from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from pricing.prices import usd_text
from services.edge.chat_request import parse_chat
from services.edge.json_http import Caller, Identify, answer, body_of, context, parsed
from services.edge.model_names import may_use
from services.edge.quote import Quote, Quotes
from services.edge.routes.tasks import checked_image


def routes(*, quotes: Quotes, identify: Identify) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/quote")
    async def create_quote(request: Request) -> Response:
        caller = await identify(request)
        body = await body_of(request)
        found = await _image(quotes, body, caller) or await _chat(quotes, body, caller)
        return answer(shown(found), request_id=context(request).request_id)

    return router


def shown(quote: Quote) -> dict[str, object]:
    """A quote, in USD."""
    return {
        "object": "quote",
        "model": quote.model,
        "most": usd_text(quote.most_nano_usd),
        "likely": usd_text(quote.likely_nano_usd),
        "currency": "USD",
        "price_version": quote.price_version,
        "max_tokens": quote.max_tokens,
    }


async def _image(quotes: Quotes, body: bytes, caller: Caller) -> Quote | None:
    """A quote for a body that asks for images; None for one that has no prompt or has messages."""
    fields = parsed(body, dict[str, Any])
    if "prompt" not in fields or "messages" in fields:
        return None
    model, _ = checked_image(fields, caller)
    return await quotes.image(model=model, prompt=fields["prompt"], images=fields.get("n") or 1, body_bytes=len(body))


async def _chat(quotes: Quotes, body: bytes, caller: Caller) -> Quote:
    found = await quotes.chat(parse_chat(body))
    if not may_use(caller.models, found.model):
        message = f"This key may not use the model {found.model[:200]!r}."
        raise TollbridgeError(Code.MODEL_NOT_ALLOWED, message, details={"param": "model"})
    return found
