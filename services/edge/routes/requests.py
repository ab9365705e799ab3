"""`GET /requests` and `GET /requests/{id}`: the request log and each request's receipt.

Billing writes and signs the documents; edge hands them on as they are. What billing has not heard of yet is shown as
unsettled by the edge that answered it; another edge waits a moment for its event.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NotRequired, TypedDict
from uuid import UUID

import msgspec
from fastapi import APIRouter, Request, Response

from chassis.errors import Code, TollbridgeError
from chassis.ids import unix_ms, uuid_of
from chassis.pipe import PipeClient
from services.edge.http.json_http import Caller, Identify, answer, context, page, page_limit, rfc3339
from services.edge.openapi.description import PAGE, TIME, USD, Description, Page, described
from services.edge.spending.publisher import BUSY_WAIT_S
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

TIMEOUT_S = 2.0
YOUNG_S = 60.0
"""A request that began so lately may have ended a moment ago, so that its event is still on its way."""
WAIT_S = BUSY_WAIT_S + 1.5
PAUSE_S = 0.1
ENDED = {
    "complete": usage_pb2.ENDED_COMPLETE,
    "client_gone": usage_pb2.ENDED_CLIENT_GONE,
    "upstream_failed": usage_pb2.ENDED_UPSTREAM_FAILED,
    "gateway_failed": usage_pb2.ENDED_GATEWAY_FAILED,
}

Unsettled = Callable[[str], usage_pb2.UsageRecorded | None]
"""What this edge knows of a request of its own that billing has not confirmed, by its id."""


class Receipt(TypedDict):
    """A request. What follows `settled` is there once it is settled; docs/receipts.md explains it."""

    id: str
    object: Literal["request"]
    created_at: TIME | None
    customer_id: str
    key_id: str
    settled: bool
    model: NotRequired[str]
    operation: NotRequired[str]
    status: NotRequired[int]
    stream: NotRequired[bool]
    usage: NotRequired[dict[str, int]]
    tokens: NotRequired[dict[str, int]]
    units: NotRequired[dict[str, int]]
    price: NotRequired[dict[str, Any]]
    provider: NotRequired[dict[str, Any]]
    calculation: NotRequired[dict[str, Any] | None]
    overage: NotRequired[USD]
    refunded: NotRequired[USD]
    charge: NotRequired[USD]
    evidence: NotRequired[str | None]
    implausible: NotRequired[bool]
    ended: NotRequired[str | None]
    policy: NotRequired[str | None]
    latency_ms: NotRequired[int]
    first_byte_ms: NotRequired[int | None]
    transfers: NotRequired[list[dict[str, Any]]]
    signature: NotRequired[dict[str, str] | None]


_TAG = "Account"
LIST_REQUESTS = Description(
    name="listRequests",
    tag=_TAG,
    summary="The request log, newest first",
    answer=Page[Receipt],
    parameters=PAGE,
)
GET_REQUEST = Description(
    name="getRequest",
    tag=_TAG,
    summary="A request's receipt, signed",
    answer=Receipt,
    refuses=frozenset({Code.NOT_FOUND}),
)


def routes(*, billing: PipeClient, identify: Identify, unsettled: Unsettled) -> APIRouter:
    """The routes; a customer sees their own requests only."""
    router = APIRouter()

    @router.get("/requests", openapi_extra=described(LIST_REQUESTS))
    async def list_requests(request: Request) -> Response:
        caller = await identify(request)
        found = await receipts(billing, customer_id=caller.customer_id, request=request)
        return answer(found, request_id=context(request).request_id)

    @router.get("/requests/{request_id}", openapi_extra=described(GET_REQUEST))
    async def get_request(request: Request, request_id: str) -> Response:
        caller = await identify(request)
        found = await _receipt(billing, request_id, caller, unsettled)
        return answer(found, request_id=context(request).request_id)

    return router


async def _receipt(billing: PipeClient, request_id: str, caller: Caller, unsettled: Unsettled) -> object:
    """The receipt, or what is known before its event has come. Raises NOT_FOUND."""
    deadline_s = asyncio.get_running_loop().time() + WAIT_S
    asked = uuid_of(request_id, "request_id")
    while True:
        event = unsettled(str(asked))  # before billing is asked: it may be confirmed meanwhile
        try:
            reply = await billing.call(
                "GetReceipt",
                billing_pb2.GetReceiptRequest(request_id=str(asked), customer_id=caller.customer_id),
                billing_pb2.GetReceiptResponse,
                timeout_s=TIMEOUT_S,
            )
            return msgspec.Raw(reply.receipt.document)
        except TollbridgeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            if event is not None and event.customer_id == caller.customer_id:
                return _unsettled(event)
            if not is_young(asked) or asyncio.get_running_loop().time() >= deadline_s:
                raise
        await asyncio.sleep(PAUSE_S)


def is_young(request_id: UUID, *, young_s: float = YOUNG_S) -> bool:
    """Whether a request of this id began so lately."""
    return request_id.version == 7 and abs(time.time() - unix_ms(request_id) / 1000) < young_s


def _unsettled(event: usage_pb2.UsageRecorded) -> Receipt:
    return {
        "id": event.request_id,
        "object": "request",
        "created_at": rfc3339(event.started_at_us),
        "customer_id": event.customer_id,
        "key_id": event.key_id,
        "settled": False,
    }


def ended_of(request: Request) -> list[usage_pb2.Ended.ValueType]:
    """`?ended=`, which may be repeated: how the requests ended that are asked for. Raises INVALID_REQUEST."""
    names = request.query_params.getlist("ended")
    if not all(name in ENDED for name in names):
        raise TollbridgeError(
            Code.INVALID_REQUEST, f"ended must be one of {', '.join(ENDED)}.", details={"param": "ended"}
        )
    return [ENDED[name] for name in names]


async def receipts(
    billing: PipeClient, *, customer_id: str, request: Request, ended: Sequence[usage_pb2.Ended.ValueType] = ()
) -> Page[Receipt]:
    """One page of the log, of one customer or (`customer_id` empty) of everybody, however or as given they `ended`."""
    reply = await billing.call(
        "ListReceipts",
        billing_pb2.ListReceiptsRequest(
            customer_id=customer_id,
            limit=page_limit(request),
            after=request.query_params.get("after", ""),
            ended=ended,
        ),
        billing_pb2.ListReceiptsResponse,
        timeout_s=TIMEOUT_S,
    )
    return page([msgspec.json.decode(each.document) for each in reply.receipts], has_more=reply.has_more)
