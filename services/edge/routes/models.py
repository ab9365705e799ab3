"""`GET /models` and `GET /models/{id}`: what may be asked for, in the fields that the surface's dialect documents."""

from collections.abc import Callable
from decimal import Decimal

import msgspec
from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from pricing.prices import NANO_PER_USD, PPM
from services.edge.catalogue import Catalogue
from services.edge.json_http import Identify, answer, context
from tollbridge.router.v1 import router_pb2


def routes(*, catalogue: Catalogue, identify: Identify) -> APIRouter:
    """The routes; ids may contain slashes."""
    router = APIRouter()

    @router.get("/models")
    async def list_models(request: Request) -> Response:
        visible = await _visible(request, catalogue, identify)
        fields = context(request).surface.dialect.model_fields
        payload = {"object": "list", "data": [shown(model, fields) for model in visible.values()]}
        return answer(payload, request_id=context(request).request_id)

    @router.get("/models/{model_id:path}")
    async def get_model(request: Request, model_id: str) -> Response:
        visible = await _visible(request, catalogue, identify)
        model = visible.get(model_id)
        if model is None:
            model = next((each for each in visible.values() if model_id in each.aliases), None)
        if model is None:
            message = f"The model {model_id[:200]!r} does not exist."
            raise TollbridgeError(Code.MODEL_NOT_FOUND, message, details={"param": "model"})
        fields = context(request).surface.dialect.model_fields
        return answer(shown(model, fields), request_id=context(request).request_id)

    return router


async def _visible(request: Request, catalogue: Catalogue, identify: Identify) -> dict[str, router_pb2.Model]:
    """The models that this caller may see: a public list needs no key, but a wrong key is still refused."""
    has_key = "authorization" in request.headers or "x-api-key" in request.headers
    allowed: frozenset[str] = frozenset()
    if has_key or not context(request).surface.models_public:
        allowed = (await identify(request)).models
    models = await catalogue.models()
    return {name: model for name, model in models.items() if not allowed or name in allowed}


def shown(model: router_pb2.Model, fields: tuple[str, ...]) -> dict[str, object]:
    """The model with exactly these fields; one that it has no value for is left out."""
    row = {name: _FIELDS[name](model) for name in fields}
    return {name: value for name, value in row.items() if value is not None}


def pricing(model: router_pb2.Model) -> dict[str, object] | None:
    """What the customer pays, as JSON numbers: USD per million tokens, or per piece in its own unit."""
    if not model.HasField("price"):
        return None
    rates = model.price.rates
    units = {
        "input": rates.input,
        "cached_input": rates.cached_input,
        "output": rates.output,
        "request": rates.per_request,
        "image": rates.per_image,
        "million_characters": rates.per_million_characters,
        "minute": rates.per_minute,
    }
    return {name: _usd(rate, model.price.markup_ppm) for name, rate in units.items() if rate}


def _usd(rate_nano_usd: int, markup_ppm: int) -> msgspec.Raw:
    """Rate × markup in USD, exactly, in plain notation."""
    amount = Decimal(rate_nano_usd) * markup_ppm / (NANO_PER_USD * PPM)
    return msgspec.Raw(f"{amount.normalize():f}".encode())


_FIELDS: dict[str, Callable[[router_pb2.Model], object]] = {
    "id": lambda model: model.id,
    "object": lambda model: "model",
    "created": lambda model: model.created_at_us // 1_000_000,
    "owned_by": lambda model: model.owned_by,
    "display_name": lambda model: model.display_name,
    "category": lambda model: model.category,
    "capabilities": lambda model: list(model.capabilities),
    "credit_cost": lambda model: model.credits_per_request,
    "context": lambda model: model.bounds.context or None,
    "pricing": pricing,
}
