"""`GET /requests` and `GET /requests/{id}`: the request log and each request's receipt."""

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.json_http import Identify, answer, context, page, page_limit, rfc3339
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

TIMEOUT_S = 2.0

_ENDED = {
    usage_pb2.ENDED_COMPLETE: "complete",
    usage_pb2.ENDED_CLIENT_GONE: "client_gone",
    usage_pb2.ENDED_UPSTREAM_FAILED: "upstream_failed",
    usage_pb2.ENDED_GATEWAY_FAILED: "gateway_failed",
}
_EVIDENCE = {usage_pb2.EVIDENCE_PROVIDER: "provider", usage_pb2.EVIDENCE_COUNTED: "counted"}


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
        return answer(shown(reply.receipt), request_id=context(request).request_id)

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
    return page([shown(receipt) for receipt in reply.receipts], has_more=reply.has_more)


def shown(receipt: billing_pb2.Receipt) -> dict[str, object]:
    """A receipt; before settlement only what is already known."""
    usage = receipt.usage
    row: dict[str, object] = {
        "id": usage.request_id,
        "object": "request",
        "created_at": rfc3339(usage.started_at_us),
        "customer_id": usage.customer_id,
        "key_id": usage.key_id,
        "settled": receipt.settled,
    }
    if not receipt.settled:
        return row
    return row | {
        "model": usage.model,
        "operation": usage.operation,
        "status": usage.http_status,
        "stream": usage.stream,
        "usage": _tokens(usage.tokens),
        "price": {"version": usage.price_version},
        "provider": _provider(usage),
        "charge": usd_text(receipt.charged_nano_usd),
        "evidence": _EVIDENCE.get(usage.evidence),
        "ended": _ENDED.get(usage.ended),
        "policy": usage.policy or None,
        "latency_ms": usage.latency_ms,
        "first_byte_ms": usage.first_byte_ms if usage.first_byte_ms >= 0 else None,
        "transfers": [transfer(each) for each in receipt.transfers],
    }


def transfer(moved: billing_pb2.Transfer) -> dict[str, object]:
    """A movement of money."""
    return {
        "id": moved.id,
        "kind": moved.kind,
        "debit": moved.debit,
        "credit": moved.credit,
        "amount": usd_text(moved.amount_nano_usd),
        "created_at": rfc3339(moved.created_at_us),
    }


def _tokens(tokens: usage_pb2.Tokens) -> dict[str, object]:
    written = tokens.cache_write + tokens.cache_write_1h
    prompt = tokens.input + tokens.cached_input + written + tokens.audio_input + tokens.image_input
    completion = tokens.output + tokens.audio_output
    return {
        "prompt_tokens": prompt,
        "cached_tokens": tokens.cached_input,
        "cache_write_tokens": written,
        "completion_tokens": completion,
        "reasoning_tokens": tokens.reasoning,
        "total_tokens": prompt + completion,
    }


def _provider(usage: usage_pb2.UsageRecorded) -> dict[str, object]:
    reported = usage.provider_reported_cost_nano_usd
    cost = reported if reported >= 0 else usage.provider_cost_nano_usd
    return {
        "id": usage.provider_id,
        "account": usage.provider_account_id,
        "model": usage.provider_model,
        "generation_id": usage.generation_id or None,
        "cost": usd_text(cost),
    }
