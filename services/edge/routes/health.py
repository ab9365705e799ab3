"""`/health`, `/livez`, `/readyz`, `/metrics`: what a load balancer and a scraper ask."""

import dataclasses
import re
from collections.abc import Callable
from typing import Literal, NotRequired, TypedDict

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from chassis.errors import TollbridgeError
from chassis.pipe import PipeClient
from services.edge.http.json_http import answer, context
from services.edge.openapi.description import Description, Media, described
from tollbridge.router.v1 import router_pb2

TIMEOUT_S = 1.0
_WHOLE_BOUND = re.compile(rb'\ble="([0-9]+)\.0"')
_WHOLE_VALUE = re.compile(rb"^([^#\n].* -?[0-9]+)\.0$", re.MULTILINE)


@dataclasses.dataclass(slots=True)
class DrainSwitch:
    """Whether this replica takes new traffic. Draining: /health and /readyz say 503, requests are served."""

    draining: bool = False


class Liveness(TypedDict):
    """The process runs."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """Whether this replica may get new requests, and why it may not."""

    status: Literal["ready", "unready"]
    reason: NotRequired[str]


class Pool(TypedDict):
    """Accounts at providers; one without a limit of slots counts none."""

    accounts: int
    total_slots: int
    available_slots: int


class Health(Pool):
    """How all are."""

    status: Literal["healthy", "degraded", "draining"]


_TAG = "Instance"
LIVEZ = Description(name="getLiveness", tag=_TAG, summary="Whether the process runs", access="open", answer=Liveness)
READYZ = Description(
    name="getReadiness",
    tag=_TAG,
    summary="Whether this replica may get new requests",
    access="open",
    answer=Readiness,
    statuses=(503,),
)
HEALTH = Description(
    name="getHealth",
    tag=_TAG,
    summary="Whether models can be served, and by how many slots",
    access="open",
    answer=Health,
    statuses=(503,),
)
METRICS = Description(
    name="getMetrics",
    tag=_TAG,
    summary="This replica's metrics, for Prometheus",
    access="open",
    media=(Media(content_type="text/plain"),),
)


def routes(
    *,
    router_client: PipeClient,
    registry: CollectorRegistry,
    drain: DrainSwitch,
    unready: Callable[[], str | None],
) -> APIRouter:
    """The routes. `unready` gives the reason why this replica must get no new requests, or None."""
    router = APIRouter()

    @router.get("/livez", openapi_extra=described(LIVEZ))
    async def livez(request: Request) -> Response:
        alive: Liveness = {"status": "alive"}
        return answer(alive, request_id=context(request).request_id)

    @router.get("/readyz", openapi_extra=described(READYZ))
    async def readyz(request: Request) -> Response:
        reason = "draining" if drain.draining else unready()
        status: Readiness = {"status": "ready"} if reason is None else {"status": "unready", "reason": reason}
        return answer(status, request_id=context(request).request_id, status=200 if reason is None else 503)

    @router.get("/health", openapi_extra=described(HEALTH))
    async def health(request: Request) -> Response:
        accounts = await _accounts(router_client)
        body: Health = {"status": _status(accounts, drain), **_pool(accounts)}
        return answer(body, request_id=context(request).request_id, status=503 if drain.draining else 200)

    @router.get("/metrics", openapi_extra=described(METRICS))
    async def metrics(request: Request) -> Response:
        headers = {"x-request-id": context(request).request_id}
        return Response(content=exposition(registry), media_type=CONTENT_TYPE_LATEST, headers=headers)

    return router


def exposition(registry: CollectorRegistry) -> bytes:
    """Prometheus' text format, with whole numbers as other clients of it write them: `le="5"` and `142`."""
    return _WHOLE_VALUE.sub(rb"\1", _WHOLE_BOUND.sub(rb'le="\1"', generate_latest(registry)))


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
    return [each for each in reply.accounts if each.state != "drained"]


def _status(
    accounts: list[router_pb2.ProviderAccount] | None, drain: DrainSwitch
) -> Literal["healthy", "degraded", "draining"]:
    if drain.draining:
        return "draining"
    healthy = accounts is not None and (not accounts or any(each.state == "ready" for each in accounts))
    return "healthy" if healthy else "degraded"


def _pool(accounts: list[router_pb2.ProviderAccount] | None) -> Pool:
    """Drawbridge's shape."""
    found = accounts or []
    total = sum(each.slots for each in found)
    available = sum(max(0, each.slots - each.in_use) for each in found if each.slots and each.state == "ready")
    return {"accounts": len(found), "total_slots": total, "available_slots": available}
