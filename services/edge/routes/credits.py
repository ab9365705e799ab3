"""`GET /credits`: what the customer has, holds and has used, as decimal strings in USD."""

from typing import Literal, TypedDict

from fastapi import APIRouter, Request, Response

from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.http.json_http import Identify, answer, context
from services.edge.openapi.description import USD, Description, described
from tollbridge.billing.v1 import billing_pb2

TIMEOUT_S = 2.0


class Balance(TypedDict):
    """A balance; `balance` includes what is held."""

    balance: USD
    held: USD
    available: USD
    currency: Literal["USD"]
    total_credits: USD
    total_usage: USD


class Credits(TypedDict):
    """The answer."""

    data: Balance


CREDITS = Description(name="getCredits", tag="Account", summary="What is left, held and used", answer=Credits)


def routes(*, billing: PipeClient, identify: Identify) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.get("/credits", openapi_extra=described(CREDITS))
    async def get_credits(request: Request) -> Response:
        caller = await identify(request)
        reply = await billing.call(
            "GetBalance",
            billing_pb2.GetBalanceRequest(customer_id=caller.customer_id),
            billing_pb2.GetBalanceResponse,
            key=caller.customer_id,
            timeout_s=TIMEOUT_S,
        )
        found: Credits = {"data": shown(reply.balance)}
        return answer(found, request_id=context(request).request_id)

    return router


def shown(balance: billing_pb2.Balance) -> Balance:
    """A balance as its customer sees it."""
    return {
        "balance": usd_text(balance.balance_nano_usd),
        "held": usd_text(balance.held_nano_usd),
        "available": usd_text(balance.available_nano_usd),
        "currency": "USD",
        "total_credits": usd_text(balance.total_credits_nano_usd),
        "total_usage": usd_text(balance.total_usage_nano_usd),
    }
