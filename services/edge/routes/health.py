"""`/health`, `/livez`, `/readyz`, `/metrics`: what a load balancer and a scraper ask."""

import dataclasses
import re
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from chassis.errors import TollbridgeError
from chassis.pipe import PipeClient
from services.edge.json_http import answer, context
from tollbridge.router.v1 import router_pb2

TIMEOUT_S = 1.0
_WHOLE_BOUND = re.compile(rb'\ble="([0-9]+)\.0"')


@dataclasses.dataclass(slots=True)
class DrainSwitch:
    """Whether this replica takes new traffic. Draining: /health and /readyz say 503, requests are served."""

    draining: bool = False


def routes(
    *,
    router_client: PipeClient,
    registry: CollectorRegistry,
    drain: DrainSwitch,
    unready: Callable[[], str | None],
) -> APIRouter:
    """The routes. `unready` gives the reason why this replica must get no new requests, or None."""
    router = APIRouter()

    @router.get("/livez")
    async def livez(request: Request) -> Response:
        return answer({"status": "alive"}, request_id=context(request).request_id)

    @router.get("/readyz")
    async def readyz(request: Request) -> Response:
        reason = "draining" if drain.draining else unready()
        status = {"status": "ready"} if reason is None else {"status": "unready", "reason": reason}
        return answer(status, request_id=context(request).request_id, status=200 if reason is None else 503)

    @router.get("/health")
    async def health(request: Request) -> Response:
        accounts = await _accounts(router_client)
        body = _pool(accounts) | {"status": _status(accounts, drain)}
        return answer(body, request_id=context(request).request_id, status=503 if drain.draining else 200)

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        headers = {"x-request-id": context(request).request_id}
        return Response(content=exposition(registry), media_type=CONTENT_TYPE_LATEST, headers=headers)

    return router


def exposition(registry: CollectorRegistry) -> bytes:
    """Prometheus' text format, with whole bounds of buckets as other clients of it write them: `le="5"`."""
    return _WHOLE_BOUND.sub(rb'le="\1"', generate_latest(registry))


async def _accounts(router_client: PipeClient) -> list[router_pb2.ProviderAccount] | None:
    try:
        reply = await router_client.call(
            "ListAccounts",
            router_pb2.ListAccountsRequest(),
            router_pb2.ListAccountsResponse,
            timeout_s=TIMEOUT_S,
        )
    except TollbridgeError:
        return None
    return list(reply.accounts)


def _status(accounts: list[router_pb2.ProviderAccount] | None, drain: DrainSwitch) -> str:
    if drain.draining:
        return "draining"
    healthy = accounts is not None and (not accounts or any(each.state == "ready" for each in accounts))
    return "healthy" if healthy else "degraded"


def _pool(accounts: list[router_pb2.ProviderAccount] | None) -> dict[str, object]:
    """Drawbridge's shape; an account without a limit of slots counts none."""
    found = accounts or []
    total = sum(each.slots for each in found)
    available = sum(max(0, each.slots - each.in_use) for each in found if each.slots and each.state == "ready")
    return {"accounts": len(found), "total_slots": total, "available_slots": available}
