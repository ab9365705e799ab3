"""`GET /admin/metrics`: what `/metrics` says at this moment, as JSON."""

import math

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry

from services.edge.json_http import answer, context


def routes(*, registry: CollectorRegistry) -> APIRouter:
    """The route; access is checked by whoever includes it."""
    router = APIRouter()

    @router.get("/metrics")
    async def get_metrics(request: Request) -> Response:
        return answer({"object": "metrics", "data": snapshot(registry)}, request_id=context(request).request_id)

    return router


def snapshot(registry: CollectorRegistry) -> list[dict[str, object]]:
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
