"""`POST /quote`: what the same body would cost if it were sent to run."""

from typing import Any, Literal, TypedDict

from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from pricing.prices import usd_text
from pricing.tokens import Units
from services.edge.bodies.request_body import aside
from services.edge.bodies.video_request import read
from services.edge.catalogue import Catalogue
from services.edge.http.json_http import Caller, Identify, answer, body_of, context, parsed
from services.edge.model_names import may_use
from services.edge.openapi.description import PAID, USD, Description, described
from services.edge.paid.operation import Operation
from services.edge.paid.quote import Quote, Quotes
from services.edge.paid.quoted_call import called
from services.edge.routes.task_shapes import ImageBody
from services.edge.task_desk import check_model


class ShownQuote(TypedDict):
    """A quote, in USD. It holds as long as the price version does."""

    object: Literal["quote"]
    model: str
    most: USD
    likely: USD
    currency: Literal["USD"]
    price_version: str
    max_tokens: int | None


class QuoteBody(TypedDict):
    """The body of a chat, message, response, completion, embedding or image."""

    model: str


QUOTE = Description(
    name="createQuote",
    tag="Account",
    summary="What a request would cost",
    about="The body is that of the call it prices; its model and fields say which. Costs nothing.",
    body=QuoteBody,
    example={"model": "MODEL", "messages": [{"role": "user", "content": "Say hello."}]},
    answer=ShownQuote,
    refuses=PAID,
)


def routes(*, quotes: Quotes, catalogue: Catalogue, identify: Identify) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/quote", openapi_extra=described(QUOTE))
    async def create_quote(request: Request) -> Response:
        caller = await identify(request)
        body = await body_of(request)
        fields = await aside(body, parsed, body, dict[str, Any])
        named = fields.get("model")
        model = await catalogue.find(named) if isinstance(named, str) else None
        category, able = (model.category, model.capabilities) if model is not None else (None, ())
        operation = called(fields, request.headers.raw, category=category, capabilities=able)
        if operation is None:
            order = _video if model is not None and model.category == "video" else _image
            found = await order(quotes, body, caller, catalogue)
        else:
            found = await _paid(quotes, operation, body, request, caller)
        return answer(shown(found), request_id=context(request).request_id)

    return router


def shown(quote: Quote) -> ShownQuote:
    """A quote as it is answered."""
    return {
        "object": "quote",
        "model": quote.model,
        "most": usd_text(quote.most_nano_usd),
        "likely": usd_text(quote.likely_nano_usd),
        "currency": "USD",
        "price_version": quote.price_version,
        "max_tokens": quote.max_tokens,
    }


async def _image(quotes: Quotes, body: bytes, caller: Caller, catalogue: Catalogue) -> Quote:
    image = parsed(body, ImageBody)
    await check_model(image.model, caller, catalogue)
    return await quotes.task(
        operation="image",
        model=image.model,
        prompt=image.prompt,
        units=Units(requests=1, images=image.images),
        outputs=image.images,
        body_bytes=len(body),
        size=image.size,
        quality=image.quality,
    )


async def _video(quotes: Quotes, body: bytes, caller: Caller, catalogue: Catalogue) -> Quote:
    video, whole = read(body, "application/json")
    await check_model(video.model, caller, catalogue)
    return await quotes.task(
        operation="video",
        model=video.model,
        prompt=video.prompt,
        units=Units(requests=1, milliseconds=video.length_s * 1000),
        outputs=1,
        body_bytes=len(whole),
        size=video.picture_size,
    )


async def _paid(quotes: Quotes, operation: Operation, body: bytes, request: Request, caller: Caller) -> Quote:
    found = await quotes.paid(await aside(body, operation.parse, body, request.headers.raw), operation)
    if not may_use(caller.models, found.model):
        message = f"This key may not use the model {found.model[:200]!r}."
        raise TollbridgeError(Code.MODEL_NOT_ALLOWED, message, details={"param": "model"})
    return found
