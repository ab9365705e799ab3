"""`GET /admin/metrics`: what `/metrics` says at this moment, as JSON."""

import math
from typing import Literal, TypedDict

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry

from services.edge.http.json_http import answer, context
from services.edge.openapi.description import Description, described


class Sample(TypedDict):
    """A number; null for what is none that JSON knows."""

    name: str
    labels: dict[str, str]
    value: float | None


class Metric(TypedDict):
    """A metric as Prometheus has it."""

    name: str
    type: str
    help: str
    samples: list[Sample]


class Metrics(TypedDict):
    """All of them."""

    object: Literal["metrics"]
    data: list[Metric]


FIGURES = Description(
    name="getMetricsAsJson", tag="Admin", summary="What /metrics says, as JSON", access="admin", answer=Metrics
)


def routes(*, registry: CollectorRegistry) -> APIRouter:
    """The route; access is checked by whoever includes it."""
    router = APIRouter()

    @router.get("/metrics", openapi_extra=described(FIGURES))
    async def get_metrics(request: Request) -> Response:
        found: Metrics = {"object": "metrics", "data": snapshot(registry)}
        return answer(found, request_id=context(request).request_id)

    return router


def snapshot(registry: CollectorRegistry) -> list[Metric]:
    """Every metric with its samples; what is no number JSON knows is null."""
    return [
        {
            "name": metric.name,
            "type": metric.type,
            "help": metric.documentation,
            "samples": [
                {
                    "name": sample.name,
                    "labels": sample.labels,
                    "value": sample.value if math.isfinite(sample.value) else None,
                }
                for sample in metric.samples
            ],
        }
        for metric in registry.collect()
    ]
