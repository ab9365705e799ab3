"""`/billing/alerts`: below what a balance is low, and where a signed webhook tells so; the same for operators."""

from decimal import Decimal
from typing import Literal, NotRequired, TypedDict

import msgspec
from fastapi import APIRouter, Request, Response

from chassis.errors import Code
from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.http.json_http import Identify, amount, answer, context, decode
from services.edge.openapi.description import USD, Access, Description, described
from tollbridge.billing.v1 import statements_pb2 as pb

TIMEOUT_S = 3.0


class AlertBody(msgspec.Struct, frozen=True, kw_only=True):
    """Sets it whole. `low_balance` left out or null is the default, 0 never; `webhook_url` left out or null is none."""

    low_balance: Decimal | None = None
    webhook_url: str | None = None
    new_secret: bool = False


class BalanceAlert(TypedDict):
    """Below what a balance is low, and who hears of it. The secret is there when it was made just now."""

    object: Literal["balance_alert"]
    low_balance: USD
    webhook_url: str | None
    webhook_secret: NotRequired[str]


def _description(name: str, summary: str, *, access: Access, body: object = None) -> Description:
    refuses = frozenset({Code.NOT_FOUND}) if access == "admin" else frozenset[Code]()
    tag = "Admin" if access == "admin" else "Account"
    return Description(
        name=name, tag=tag, summary=summary, access=access, body=body, answer=BalanceAlert, refuses=refuses
    )


def routes(*, statements: PipeClient, identify: Identify) -> APIRouter:
    """A customer's own."""
    router = APIRouter()
    shows = _description("getBalanceAlert", "Below what the balance is low", access="key")
    sets = _description("setBalanceAlert", "Says when to be told of a low balance", access="key", body=AlertBody)

    @router.get("/billing/alerts", openapi_extra=described(shows))
    async def get_alert(request: Request) -> Response:
        caller = await identify(request)
        return await show(statements, customer_id=caller.customer_id, request=request)

    @router.put("/billing/alerts", openapi_extra=described(sets))
    async def set_alert(request: Request) -> Response:
        caller = await identify(request)
        return await change(statements, customer_id=caller.customer_id, request=request)

    return router


def admin_routes(*, statements: PipeClient) -> APIRouter:
    """Any customer's; access is checked by whoever includes them."""
    router = APIRouter()
    shows = _description("getCustomersBalanceAlert", "Below what a customer's balance is low", access="admin")
    sets = _description(
        "setCustomersBalanceAlert", "Says when a customer is told of a low balance", access="admin", body=AlertBody
    )

    @router.get("/customers/{customer_id}/alerts", openapi_extra=described(shows))
    async def get_alert(request: Request, customer_id: str) -> Response:
        return await show(statements, customer_id=customer_id, request=request)

    @router.put("/customers/{customer_id}/alerts", openapi_extra=described(sets))
    async def set_alert(request: Request, customer_id: str) -> Response:
        return await change(statements, customer_id=customer_id, request=request)

    return router


async def show(statements: PipeClient, *, customer_id: str, request: Request) -> Response:
    """What holds, without the secret."""
    reply = await statements.call(
        "GetBalanceAlert",
        pb.GetBalanceAlertRequest(customer_id=customer_id),
        pb.GetBalanceAlertResponse,
        timeout_s=TIMEOUT_S,
    )
    return answer(_shown(reply.alert), request_id=context(request).request_id)


async def change(statements: PipeClient, *, customer_id: str, request: Request) -> Response:
    """Sets it; a secret that is made thereby is shown this once. Raises INVALID_REQUEST."""
    body = await decode(request, AlertBody)
    asked = pb.SetBalanceAlertRequest(customer_id=customer_id, url=body.webhook_url or "", new_secret=body.new_secret)
    if body.low_balance is not None:
        asked.low_nano_usd = amount(body.low_balance, param="low_balance")
    reply = await statements.call("SetBalanceAlert", asked, pb.SetBalanceAlertResponse, timeout_s=TIMEOUT_S)
    shown = _shown(reply.alert)
    if reply.secret:
        shown["webhook_secret"] = reply.secret
    return answer(shown, request_id=context(request).request_id)


def _shown(alert: pb.BalanceAlert) -> BalanceAlert:
    return {
        "object": "balance_alert",
        "low_balance": usd_text(alert.low_nano_usd),
        "webhook_url": alert.url or None,
    }
