"""`GET /requests` and `GET /requests/{id}`: the request log and each request's receipt.

Billing writes and signs the documents; edge hands them on as they are.
"""

import msgspec
from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from services.edge.json_http import Identify, answer, context, page, page_limit
from tollbridge.billing.v1 import billing_pb2

TIMEOUT_S = 2.0


def routes(*, billing: PipeClient, identify: Identify) -> APIRouter:
    """The routes; a customer sees their own requests only."""
    router = APIRouter()

    @router.get("/requests")
    async def list_requests(request: Request) -> Response:
        caller = await identify(request)
        found = await receipts(billing, customer_id=caller.customer_id, request=request)
        return answer(found, request_id=context(request).request_id)

    @router.get("/requests/{request_id}")
    async def get_request(request: Request, request_id: str) -> Response:
        caller = await identify(request)
        reply = await billing.call(
            "GetReceipt",
            billing_pb2.GetReceiptRequest(request_id=request_id, customer_id=caller.customer_id),
            billing_pb2.GetReceiptResponse,
            timeout_s=TIMEOUT_S,
        )
        return answer(msgspec.Raw(reply.receipt.document), request_id=context(request).request_id)

    return router


async def receipts(billing: PipeClient, *, customer_id: str, request: Request) -> dict[str, object]:
    """One page of the log, of one customer or (`customer_id` empty) of everybody."""
    reply = await billing.call(
        "ListReceipts",
        billing_pb2.ListReceiptsRequest(
            customer_id=customer_id,
            limit=page_limit(request),
            after=request.query_params.get("after", ""),
        ),
        billing_pb2.ListReceiptsResponse,
        timeout_s=TIMEOUT_S,
    )
    return page([msgspec.json.decode(each.document) for each in reply.receipts], has_more=reply.has_more)
