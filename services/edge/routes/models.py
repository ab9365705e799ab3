"""`GET /models` and `GET /models/{id}`: what may be asked for, in the fields that the surface's dialect documents.

Anthropic's SDKs ask at the same paths; theirs is the shape for whoever names a version of Anthropic's API.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal, NotRequired, TypedDict, cast

import msgspec
from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from pricing.prices import NANO_PER_USD, PPM
from services.edge.catalogue import Catalogue
from services.edge.dialects import Dialect
from services.edge.http.json_http import Identify, answer, context, rfc3339
from services.edge.model_names import may_use
from services.edge.openapi.description import Description, described
from tollbridge.router.v1 import router_pb2

MILLION = 1_000_000
SECONDS_PER_MINUTE = 60
EPOCH = "1970-01-01T00:00:00Z"
"""What Anthropic's API says where nobody knows when."""


class Model(TypedDict):
    """A model, in the fields that the surface's dialect documents. `pricing` is in USD: per so many tokens or piece."""

    id: str
    object: Literal["model"]
    owned_by: NotRequired[str]
    created: NotRequired[int]
    display_name: NotRequired[str]
    category: NotRequired[str]
    capabilities: NotRequired[list[str]]
    credit_cost: NotRequired[float]
    context: NotRequired[int]
    pricing: NotRequired[dict[str, float]]


class ModelList(TypedDict):
    """All models that this key may use, on one page."""

    object: Literal["list"]
    data: list[Model]


class AnthropicModel(TypedDict):
    """A model as Anthropic's SDKs know them."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int | None
    max_tokens: int | None


class AnthropicModels(TypedDict):
    """All of them, on one page."""

    data: list[AnthropicModel]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


_BOTH = "In the shape of Anthropic's API for requests with an `anthropic-version` header."
LIST_MODELS = Description(
    name="listModels",
    tag="Models",
    summary="What may be asked for, and what it costs",
    about=_BOTH,
    access="list",
    answer=ModelList,
)
GET_MODEL = Description(
    name="getModel",
    tag="Models",
    summary="One model",
    about=f"Its id may contain slashes. {_BOTH}",
    access="list",
    answer=Model,
    refuses=frozenset({Code.MODEL_NOT_FOUND, Code.NOT_FOUND}),
)


def routes(*, catalogue: Catalogue, identify: Identify) -> APIRouter:
    """The routes; ids may contain slashes."""
    router = APIRouter()

    @router.get("/models", openapi_extra=described(LIST_MODELS))
    async def list_models(request: Request) -> Response:
        allowed = await _allowed(request, identify)
        dialect = context(request).surface.dialect
        visible = [model for name, model in (await catalogue.models()).items() if may_use(allowed, name)]
        payload: ModelList | AnthropicModels
        if _is_anthropics(request):
            payload = as_anthropics(visible)
        else:
            payload = {"object": "list", "data": [shown(model, dialect) for model in visible]}
        return answer(payload, request_id=context(request).request_id)

    @router.get("/models/{model_id:path}", openapi_extra=described(GET_MODEL))
    async def get_model(request: Request, model_id: str) -> Response:
        allowed = await _allowed(request, identify)
        model = await catalogue.find(model_id)
        if model is None or not may_use(allowed, model.id):
            message = f"The model {model_id[:200]!r} does not exist."
            raise TollbridgeError(Code.MODEL_NOT_FOUND, message, details={"param": "model"})
        is_anthropics = _is_anthropics(request)
        found = as_anthropics([model])["data"][0] if is_anthropics else shown(model, context(request).surface.dialect)
        return answer(found, request_id=context(request).request_id)

    return router


async def _allowed(request: Request, identify: Identify) -> frozenset[str]:
    """The names that this caller's key lists: a public list needs no key, but a wrong key is still refused."""
    has_key = "authorization" in request.headers or "x-api-key" in request.headers
    if has_key or not context(request).surface.models_public:
        return (await identify(request)).models
    return frozenset()


def _is_anthropics(request: Request) -> bool:
    return "anthropic-version" in request.headers


def as_anthropics(models: Sequence[router_pb2.Model]) -> AnthropicModels:
    """The list that Anthropic's SDKs page through."""
    rows: list[AnthropicModel] = [
        {
            "type": "model",
            "id": model.id,
            "display_name": model.display_name or model.id,
            "created_at": rfc3339(model.created_at_us) or EPOCH,
            "lifecycle": "active",
            "max_input_tokens": model.bounds.context or None,
            "max_tokens": model.bounds.max_output or None,
        }
        for model in models
    ]
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return {"data": rows, "has_more": False, "first_id": first, "last_id": last}


def shown(model: router_pb2.Model, dialect: Dialect) -> Model:
    """The model with exactly the dialect's fields; one that it has no value for is left out."""
    row = {name: _FIELDS[name](model, dialect) for name in dialect.model_fields}
    return cast("Model", {name: value for name, value in row.items() if value is not None})


def pricing(model: router_pb2.Model, dialect: Dialect) -> dict[str, object] | None:
    """What the customer pays, as JSON numbers: USD per so many tokens as the dialect says, or per piece by its unit."""
    if not model.HasField("price"):
        return None
    rates, markup = model.price.rates, Decimal(model.price.markup_ppm) / (NANO_PER_USD * PPM)
    by_second = model.category == "video" and rates.per_minute % SECONDS_PER_MINUTE == 0
    by_token = {name: getattr(rates, name) for name in dialect.pricing_classes}
    by_piece = {
        "request": rates.per_request,
        "image": rates.per_image,
        "million_characters": rates.per_million_characters,
        "second": rates.per_minute // SECONDS_PER_MINUTE if by_second else 0,
        "minute": 0 if by_second else rates.per_minute,
    }
    is_free = not any((*by_token.values(), *by_piece.values()))
    for_tokens = markup * dialect.pricing_tokens / MILLION
    found: dict[str, object] = {name: _number(rate * for_tokens) for name, rate in by_token.items() if rate or is_free}
    return found | {name: _number(rate * markup) for name, rate in by_piece.items() if rate}


def _number(usd: Decimal) -> msgspec.Raw:
    """USD exactly, in plain notation."""
    return msgspec.Raw(f"{usd.normalize():f}".encode())


_FIELDS: dict[str, Callable[[router_pb2.Model, Dialect], object]] = {
    "id": lambda model, _: model.id,
    "object": lambda _, __: "model",
    "created": lambda model, _: model.created_at_us // 1_000_000,
    "owned_by": lambda model, _: model.owned_by,
    "display_name": lambda model, _: model.display_name,
    "category": lambda model, _: model.category,
    "capabilities": lambda model, _: list(model.capabilities),
    "credit_cost": lambda model, _: model.credits_per_request or None,
    "context": lambda model, _: model.bounds.context or None,
    "pricing": pricing,
}
