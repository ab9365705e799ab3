"""The rest of the admin API: the request log, refunds, provider accounts, the configuration in use, draining."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal, TypedDict

import msgspec
from fastapi import APIRouter, Request, Response

from chassis.config_state import ConfigState
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7, uuid_of
from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.admin.every_replica import Account, ConfigStates, all_accounts, config_states
from services.edge.admin.keys import OF_CUSTOMER
from services.edge.clients import Clients
from services.edge.http.json_http import amount, answer, context, decode, page
from services.edge.openapi.description import (
    PAGE,
    USD,
    UUID,
    Description,
    Media,
    Page,
    Parameter,
    described,
)
from services.edge.routes.health import DrainSwitch
from services.edge.routes.requests import Receipt, ended_of, is_young, receipts
from services.edge.routes.usage import OPERATORS_GROUPS, PARAMETERS, UsageSum, report
from tollbridge.billing.v1 import billing_pb2

TIMEOUT_S = 3.0
MAY_RUN_S = 900.0
"""So long after its beginning a request that billing doesn't know may still come to its end."""


class RefundBody(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a refund; without an amount all of it."""

    request_id: UUID
    reason: str
    amount_usd: Decimal | None = None


class Refund(TypedDict):
    """What was given back, and the balance now."""

    transfer_id: str
    amount: USD
    balance: USD


class Draining(TypedDict):
    """Whether this replica takes no new traffic."""

    draining: bool


_TAG = "Admin"
LIST_REQUESTS = Description(
    name="listAllRequests",
    tag=_TAG,
    summary="The request log of everybody, or of a customer",
    access="admin",
    answer=Page[Receipt],
    parameters=(
        OF_CUSTOMER,
        Parameter(
            name="ended",
            about="How they ended; may be repeated.",
            shape=list[Literal["complete", "client_gone", "upstream_failed", "gateway_failed"]],
        ),
        *PAGE,
    ),
)
USAGE = Description(
    name="getAllUsage",
    tag=_TAG,
    summary="What was used and paid, by model, key, day or customer",
    about="CSV for `Accept: text/csv`.",
    access="admin",
    answer=Page[UsageSum],
    media=(Media(content_type="text/csv"),),
    parameters=(
        Parameter(name="customer_id", about="Of this customer alone."),
        Parameter(
            name="group_by",
            about="What is summed: model without it.",
            shape=Literal["model", "key", "day", "customer"],
        ),
        *PARAMETERS,
    ),
)
REFUND = Description(
    name="refundRequest",
    tag=_TAG,
    summary="Gives a request's charge back, once",
    access="admin",
    body=RefundBody,
    example={"request_id": "0198c0de-0000-7000-8000-000000000000", "reason": "a broken answer"},
    answer=Refund,
    status=201,
    refuses=frozenset({Code.NOT_FOUND, Code.NOT_SETTLED, Code.ALREADY_REFUNDED}),
)
ACCOUNTS = Description(
    name="listAccounts", tag=_TAG, summary="Accounts at providers", access="admin", answer=Page[Account]
)
CONFIG = Description(
    name="getConfig", tag=_TAG, summary="The configuration in use", access="admin", answer=ConfigStates
)
DRAIN = Description(
    name="drain",
    tag=_TAG,
    summary="This replica takes no new traffic: /health and /readyz say 503, requests are served",
    access="admin",
    answer=Draining,
)
UNDRAIN = Description(
    name="undrain", tag=_TAG, summary="This replica takes traffic again", access="admin", answer=Draining
)


def routes(*, clients: Clients, drain: DrainSwitch, edges: Callable[[], Mapping[str, ConfigState]]) -> APIRouter:
    """The routes; access is checked by whoever includes them."""
    router = APIRouter()

    @router.get("/requests", openapi_extra=described(LIST_REQUESTS))
    async def list_requests(request: Request) -> Response:
        owner = request.query_params.get("customer_id", "")
        found = await receipts(clients.billing, customer_id=owner, request=request, ended=ended_of(request))
        return answer(found, request_id=context(request).request_id)

    @router.get("/usage", openapi_extra=described(USAGE))
    async def get_usage(request: Request) -> Response:
        owner = request.query_params.get("customer_id", "")
        return await report(clients.statements, customer_id=owner, request=request, groups=OPERATORS_GROUPS)

    @router.post("/refunds", openapi_extra=described(REFUND))
    async def refund(request: Request) -> Response:
        body = await decode(request, RefundBody)
        reply = await _refund(clients.billing, body)
        payload: Refund = {
            "transfer_id": reply.transfer_id,
            "amount": usd_text(reply.amount_nano_usd),
            "balance": usd_text(reply.balance.balance_nano_usd),
        }
        return answer(payload, request_id=context(request).request_id, status=201)

    @router.get("/accounts", openapi_extra=described(ACCOUNTS))
    async def list_accounts(request: Request) -> Response:
        listed = page(await all_accounts(clients.router), has_more=False)
        return answer(listed, request_id=context(request).request_id)

    @router.get("/config", openapi_extra=described(CONFIG))
    async def get_config(request: Request) -> Response:
        states = await config_states(clients, edges=edges())
        return answer(states, request_id=context(request).request_id)

    @router.post("/drain", openapi_extra=described(DRAIN))
    async def start_drain(request: Request) -> Response:
        drain.draining = True
        state: Draining = {"draining": True}
        return answer(state, request_id=context(request).request_id)

    @router.post("/undrain", openapi_extra=described(UNDRAIN))
    async def end_drain(request: Request) -> Response:
        drain.draining = False
        state: Draining = {"draining": False}
        return answer(state, request_id=context(request).request_id)

    return router


async def _refund(billing: PipeClient, body: RefundBody) -> billing_pb2.RefundResponse:
    back = None if body.amount_usd is None else amount(body.amount_usd, param="amount_usd")
    if back is not None and back <= 0:
        message = "amount_usd must be more than 0; left out it is all of it."
        raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "amount_usd"})
    request_id = uuid_of(body.request_id, "request_id")
    request = billing_pb2.RefundRequest(
        request_id=str(request_id), reason=body.reason, amount_nano_usd=back or 0, call_id=str(uuid7())
    )
    try:
        return await billing.call("Refund", request, billing_pb2.RefundResponse, timeout_s=TIMEOUT_S)
    except TollbridgeError as error:
        if error.code is not Code.NOT_FOUND or not is_young(request_id, young_s=MAY_RUN_S):
            raise
        # Under a shared lease billing hears of a request by its end.
        message = "This request is not settled: it may still run, or its charge is on its way."
        raise TollbridgeError(Code.NOT_SETTLED, message, retry_after_s=1) from error
