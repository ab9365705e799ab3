"""`/admin/customers`: making, showing and changing customers, and giving or correcting their credit."""

import asyncio
from decimal import Decimal
from typing import Annotated, Literal, TypedDict

import msgspec
from fastapi import APIRouter, Request, Response
from msgspec import Meta

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from pricing.prices import usd_text
from services.edge.http.json_http import Forget, amount, answer, context, decode, page, page_limit, rfc3339
from services.edge.openapi.description import IDEMPOTENCY_KEY, PAGE, TIME, USD, Description, Page, described
from services.edge.routes.keys import call_id
from services.edge.routes.spending import ShownCap, SpendCapBody, cap_message, cap_of, shown_caps
from services.edge.spending.spend_caps import customer_owner
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2

TIMEOUT_S = 3.0
BALANCES_AT_ONCE = 16
"""Questions of one page to billing that may be under way together."""

_STATUS_NAMES = {
    auth_pb2.CUSTOMER_STATUS_ACTIVE: "active",
    auth_pb2.CUSTOMER_STATUS_SUSPENDED: "suspended",
    auth_pb2.CUSTOMER_STATUS_BANNED: "banned",
}
_STATUS_VALUES = {name: value for value, name in _STATUS_NAMES.items()}


class CustomerBody(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a customer; the welcome credit comes on top of `credit_usd`."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    email: str = ""
    plan: str = ""
    credit_usd: Decimal = Decimal(0)
    spend_cap: SpendCapBody | None = None


class CustomerPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What changes; what is left out stays, and `spend_cap: null` takes the cap away."""

    plan: str = ""
    status: Literal["active", "suspended", "banned"] | None = None
    spend_cap: SpendCapBody | msgspec.UnsetType | None = msgspec.UNSET


class CreditBody(msgspec.Struct, frozen=True, kw_only=True):
    """Credit to give; negative corrects."""

    amount_usd: Decimal
    reason: str = ""


class Customer(TypedDict):
    """A customer with their balance, which includes what is held."""

    id: str
    name: str
    email: str | None
    plan: str
    status: str | None
    balance: USD
    held: USD
    created_at: TIME | None
    spend_cap: ShownCap | None


class Adjusted(TypedDict):
    """The transfer, and the balance after it."""

    transfer_id: str
    balance: USD


_TAG = "Admin"
_UNKNOWN = frozenset({Code.NOT_FOUND, Code.CONFLICT, Code.IDEMPOTENCY_MISMATCH})
CREATE = Description(
    name="createCustomer",
    tag=_TAG,
    summary="Makes a customer",
    access="admin",
    body=CustomerBody,
    example={"name": "Ada", "credit_usd": "20.00"},
    answer=Customer,
    status=201,
    parameters=(IDEMPOTENCY_KEY,),
    refuses=_UNKNOWN,
)
LIST = Description(
    name="listCustomers",
    tag=_TAG,
    summary="Customers with their balances",
    access="admin",
    answer=Page[Customer],
    parameters=PAGE,
)
GET = Description(name="getCustomer", tag=_TAG, summary="A customer", access="admin", answer=Customer, refuses=_UNKNOWN)
UPDATE = Description(
    name="updateCustomer",
    tag=_TAG,
    summary="Changes a customer's plan, status or spend cap",
    access="admin",
    body=CustomerPatch,
    example={"status": "suspended"},
    answer=Customer,
    parameters=(IDEMPOTENCY_KEY,),
    refuses=_UNKNOWN,
)
ADJUST = Description(
    name="adjustCredit",
    tag=_TAG,
    summary="Gives a customer credit; a negative amount corrects",
    access="admin",
    body=CreditBody,
    example={"amount_usd": "5.00", "reason": "goodwill"},
    answer=Adjusted,
    parameters=(IDEMPOTENCY_KEY,),
    refuses=_UNKNOWN | {Code.INSUFFICIENT_CREDITS},
)


def routes(*, auth: PipeClient, billing: PipeClient, forget: Forget) -> APIRouter:
    """The routes; access is checked by whoever includes them."""
    router = APIRouter()
    accounts = CustomerAccounts(auth=auth, billing=billing)

    @router.post("/customers", openapi_extra=described(CREATE))
    async def create_customer(request: Request) -> Response:
        body = await decode(request, CustomerBody)
        made = await accounts.create(body, call_id=call_id(request, whose="admin"))
        return answer(made, request_id=context(request).request_id, status=201)

    @router.get("/customers", openapi_extra=described(LIST))
    async def list_customers(request: Request) -> Response:
        after = request.query_params.get("after", "")
        found = await accounts.page(limit=page_limit(request), after=after)
        return answer(found, request_id=context(request).request_id)

    @router.get("/customers/{customer_id}", openapi_extra=described(GET))
    async def get_customer(request: Request, customer_id: str) -> Response:
        return answer(await accounts.get(customer_id), request_id=context(request).request_id)

    @router.patch("/customers/{customer_id}", openapi_extra=described(UPDATE))
    async def update_customer(request: Request, customer_id: str) -> Response:
        patch = await decode(request, CustomerPatch)
        changed = await accounts.change(customer_id, patch, call_id=call_id(request, whose="admin"))
        forget(customer_id=customer_id)
        return answer(changed, request_id=context(request).request_id)

    @router.post("/customers/{customer_id}/credits", openapi_extra=described(ADJUST))
    async def adjust_credit(request: Request, customer_id: str) -> Response:
        body = await decode(request, CreditBody)
        amount_nano_usd = amount(body.amount_usd, param="amount_usd")
        if not amount_nano_usd:
            message = "amount_usd must not be 0."
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "amount_usd"})
        moved = await accounts.credit(
            customer_id,
            amount_nano_usd=amount_nano_usd,
            reason=body.reason,
            call_id=call_id(request, whose="admin"),
        )
        payload: Adjusted = {"transfer_id": moved.transfer_id, "balance": usd_text(moved.balance.balance_nano_usd)}
        return answer(payload, request_id=context(request).request_id)

    return router


class CustomerAccounts:
    """A customer is auth's, their balance billing's: this joins the two for the admin.

    `call_id` makes each write idempotent; a creation that was cut between the two owners is completed by repeating it,
    and its account is opened as soon as anybody looks at the customer.
    """

    def __init__(self, *, auth: PipeClient, billing: PipeClient) -> None:
        self._auth = auth
        self._billing = billing

    async def create(self, body: CustomerBody, *, call_id: str) -> Customer:
        """Makes the customer, opens the account and gives the credit."""
        credit = amount(body.credit_usd, param="credit_usd")
        if credit < 0:
            message = "A new customer's credit can't be negative."
            raise TollbridgeError(Code.INVALID_REQUEST, message, details={"param": "credit_usd"})
        reply = await self._auth.call(
            "CreateCustomer",
            auth_pb2.CreateCustomerRequest(
                request_id=call_id,
                name=body.name,
                email=body.email,
                plan=body.plan,
                spend_cap=cap_message(body.spend_cap),
            ),
            auth_pb2.CreateCustomerResponse,
            timeout_s=TIMEOUT_S,
        )
        balance = await self._open(reply.customer.id)
        if credit:
            given = await self.credit(
                reply.customer.id,
                amount_nano_usd=credit,
                reason="opening credit",
                call_id=f"{call_id}-credit",
            )
            balance = given.balance
        return await self._shown(reply.customer, balance)

    async def get(self, customer_id: str) -> Customer:
        """One customer with their balance and what they spent under their cap."""
        reply = await self._auth.call(
            "GetCustomer",
            auth_pb2.GetCustomerRequest(customer_id=customer_id),
            auth_pb2.GetCustomerResponse,
            timeout_s=TIMEOUT_S,
        )
        return await self._shown(reply.customer, await self._balance(customer_id))

    async def change(self, customer_id: str, patch: CustomerPatch, *, call_id: str) -> Customer:
        """Changes plan, status or spend cap."""
        status = auth_pb2.CUSTOMER_STATUS_UNSPECIFIED if patch.status is None else _STATUS_VALUES[patch.status]
        reply = await self._auth.call(
            "UpdateCustomer",
            auth_pb2.UpdateCustomerRequest(
                request_id=call_id,
                customer_id=customer_id,
                plan=patch.plan,
                status=status,
                spend_cap=cap_message(patch.spend_cap or None),
                lifts_spend_cap=patch.spend_cap is None,
            ),
            auth_pb2.UpdateCustomerResponse,
            timeout_s=TIMEOUT_S,
        )
        return await self._shown(reply.customer, await self._balance(customer_id))

    async def page(self, *, limit: int, after: str) -> Page[Customer]:
        """One page of customers, each with their balance."""
        reply = await self._auth.call(
            "ListCustomers",
            auth_pb2.ListCustomersRequest(limit=limit, after=after),
            auth_pb2.ListCustomersResponse,
            timeout_s=TIMEOUT_S,
        )
        gate = asyncio.Semaphore(BALANCES_AT_ONCE)

        async def row(customer: auth_pb2.Customer) -> Customer:
            async with gate:
                return await self._shown(customer, await self._balance(customer.id))

        try:
            async with asyncio.TaskGroup() as group:  # owns the questions; the first failure ends the others
                rows = [group.create_task(row(customer)) for customer in reply.customers]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return page([each.result() for each in rows], has_more=reply.has_more)

    async def credit(
        self, customer_id: str, *, amount_nano_usd: int, reason: str, call_id: str
    ) -> billing_pb2.AdjustCreditResponse:
        """Gives credit, or with a negative amount takes it back."""
        request = billing_pb2.AdjustCreditRequest(
            request_id=call_id,
            customer_id=customer_id,
            amount_nano_usd=amount_nano_usd,
            reason=reason,
        )
        try:
            return await self._adjust(request)
        except TollbridgeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            await self.get(customer_id)  # opens the account of a customer whom auth knows, and of nobody else
            return await self._adjust(request)

    async def _shown(self, customer: auth_pb2.Customer, balance: billing_pb2.Balance) -> Customer:
        caps = await shown_caps(self._billing, [cap_of(customer_owner(customer.id), customer)])
        return shown(customer, balance, caps[0])

    async def _adjust(self, request: billing_pb2.AdjustCreditRequest) -> billing_pb2.AdjustCreditResponse:
        return await self._billing.call("AdjustCredit", request, billing_pb2.AdjustCreditResponse, timeout_s=TIMEOUT_S)

    async def _open(self, customer_id: str) -> billing_pb2.Balance:
        """Opens the account, if it is not open yet."""
        reply = await self._billing.call(
            "OpenAccount",
            billing_pb2.OpenAccountRequest(customer_id=customer_id),
            billing_pb2.OpenAccountResponse,
            timeout_s=TIMEOUT_S,
        )
        return reply.balance

    async def _balance(self, customer_id: str) -> billing_pb2.Balance:
        """The balance of a customer whom auth knows."""
        try:
            reply = await self._billing.call(
                "GetBalance",
                billing_pb2.GetBalanceRequest(customer_id=customer_id),
                billing_pb2.GetBalanceResponse,
                timeout_s=TIMEOUT_S,
            )
        except TollbridgeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return await self._open(customer_id)  # their creation was cut between the two owners
        return reply.balance


def shown(customer: auth_pb2.Customer, balance: billing_pb2.Balance, spend_cap: ShownCap | None) -> Customer:
    """A customer as the admin sees them."""
    return {
        "id": customer.id,
        "name": customer.name,
        "email": customer.email or None,
        "plan": customer.plan,
        "status": _STATUS_NAMES.get(customer.status),
        "balance": usd_text(balance.balance_nano_usd),
        "held": usd_text(balance.held_nano_usd),
        "created_at": rfc3339(customer.created_at_us),
        "spend_cap": spend_cap,
    }
