"""Edge's pages behind FastAPI, over HTTP in this process, with a real auth on PostgreSQL and a billing in memory."""

import asyncio
import contextlib
import dataclasses
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from chassis.config_state import ConfigState, config_state_handler
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from chassis.rpc import CallContext, Handler, RpcServer, RpcService
from chassis.telemetry import Tracer
from services.edge.app import EdgeApp
from services.edge.clients import Clients
from services.edge.config import without_file
from services.edge.idempotency.claims import Claims
from services.edge.limits.limit_owner import LimitOwner
from services.edge.limits.limits import Limits
from services.edge.owners import AuthOwner, BillingOwner
from services.edge.paid.admission import Admission
from services.edge.paid.refusals import Refusals, RefusalTeller
from services.edge.routes.health import DrainSwitch
from services.edge.settings import Settings
from services.edge.site import own_site, public_site
from services.edge.spending.purse import Purse
from tests.unit.auth.replica import TOKENS, running
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.tasks.v1 import tasks_pb2
from tollbridge.usage.v1 import usage_pb2

ADMIN_TOKEN = "admin-token"
EDGE = frozenset({"edge"})


class Billing:
    """Accounts in memory, and how many were asked about at once."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.config = ConfigState(hash="billing's")
        self.pause_s = 0.0
        self.spent: dict[str, int] = {}
        """By owner and period; -1 is a billing that can't be asked."""
        self.asking = 0
        self.most_asking = 0
        methods = {
            "OpenAccount": self.open_account,
            "GetBalance": self.get_balance,
            "AdjustCredit": self.adjust_credit,
            "GetSpend": self.get_spend,
            "ListReceipts": self.list_receipts,
            "Refund": self.refund,
        }
        descriptor = billing_pb2.DESCRIPTOR.services_by_name["BillingService"]
        handlers = {name: Handler(run, EDGE) for name, run in methods.items()}
        handlers["GetConfigState"] = config_state_handler(billing_pb2.GetConfigStateResponse, lambda: self.config, EDGE)
        self.service = RpcService(descriptor, handlers)

    async def list_receipts(
        self, request: billing_pb2.ListReceiptsRequest, _: CallContext
    ) -> billing_pb2.ListReceiptsResponse:
        """One line that is named after what was asked for."""
        names = [usage_pb2.Ended.Name(each) for each in request.ended]
        return billing_pb2.ListReceiptsResponse(
            receipts=[billing_pb2.Receipt(document=json.dumps({"id": " ".join(names)}).encode())]
        )

    async def refund(self, _request: billing_pb2.RefundRequest, _: CallContext) -> billing_pb2.RefundResponse:
        """No request has come to its end here."""
        raise TollbridgeError(Code.NOT_FOUND, "no such request")

    async def open_account(
        self, request: billing_pb2.OpenAccountRequest, _: CallContext
    ) -> billing_pb2.OpenAccountResponse:
        balance = self.balances.setdefault(request.customer_id, 0)
        return billing_pb2.OpenAccountResponse(balance=billing_pb2.Balance(balance_nano_usd=balance))

    async def get_spend(self, request: billing_pb2.GetSpendRequest, _: CallContext) -> billing_pb2.GetSpendResponse:
        spent = [self.spent.get(f"{cap.owner}/{cap.per}", 0) for cap in request.caps]
        if -1 in spent:
            raise TollbridgeError(Code.UNAVAILABLE, "The database is away.", retry_after_s=1)
        return billing_pb2.GetSpendResponse(spends=[billing_pb2.Spend(spent_nano_usd=each) for each in spent])

    async def adjust_credit(
        self, request: billing_pb2.AdjustCreditRequest, _: CallContext
    ) -> billing_pb2.AdjustCreditResponse:
        if request.customer_id not in self.balances:
            raise TollbridgeError(Code.NOT_FOUND, "There is no such account.")
        self.balances[request.customer_id] += request.amount_nano_usd
        balance = billing_pb2.Balance(balance_nano_usd=self.balances[request.customer_id])
        return billing_pb2.AdjustCreditResponse(transfer_id="t", balance=balance)

    async def get_balance(
        self, request: billing_pb2.GetBalanceRequest, _: CallContext
    ) -> billing_pb2.GetBalanceResponse:
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        try:
            await asyncio.sleep(self.pause_s)
            if request.customer_id not in self.balances:
                raise TollbridgeError(Code.NOT_FOUND, "There is no such account.")
            balance = billing_pb2.Balance(balance_nano_usd=self.balances[request.customer_id])
            return billing_pb2.GetBalanceResponse(balance=balance)
        finally:
            self.asking -= 1


@dataclasses.dataclass
class Office:
    """A running edge as an operator and its customers reach it."""

    http: httpx.AsyncClient
    billing: Billing
    refusals: RefusalTeller

    async def ask(self, method: str, path: str, key: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request with a key, or with the admin token."""
        headers["authorization"] = f"Bearer {key}"
        return await self.http.request(method, path, json=body, headers=headers)

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the admin API, which must succeed."""
        reply = await self.ask(method, path, ADMIN_TOKEN, body)
        assert reply.is_success, reply.text
        return reply.json()

    async def key(self, customer_id: str, **terms: Any) -> dict[str, Any]:
        """A key that an operator makes."""
        made: dict[str, Any] = await self.admin("POST", "/admin/keys", {"customer_id": customer_id, **terms})
        return made

    async def customer(self) -> str:
        """The id of a new customer."""
        made = await self.admin("POST", "/admin/customers", {"name": f"c-{uuid.uuid4()}"})
        return str(made["id"])


async def _list_models(_: router_pb2.ListModelsRequest, __: CallContext) -> router_pb2.ListModelsResponse:
    return router_pb2.ListModelsResponse(models=[router_pb2.Model(id="m1", aliases=["m-one"])])


@contextlib.asynccontextmanager
async def office(database: str) -> AsyncIterator[Office]:
    """An edge for the time of the block, on auth's database."""
    billing, tracer = Billing(), Tracer(service="test", replica="0", otlp_endpoint="")
    states = config_state_handler(tasks_pb2.GetConfigStateResponse, lambda: ConfigState(hash="tasks'"), EDGE)
    tasks = RpcService(tasks_pb2.DESCRIPTOR.services_by_name["TasksService"], {"GetConfigState": states})
    router = RpcService(
        router_pb2.DESCRIPTOR.services_by_name["RouterService"], {"ListModels": Handler(_list_models, EDGE)}
    )
    server = RpcServer(
        services=[billing.service, tasks, router],
        bind="127.0.0.1:0",
        tokens=TOKENS,
        tracer=tracer,
        registry=CollectorRegistry(),
    )
    address = await server.start()
    async with running(database) as auth:
        settings = Settings(
            service_token=f"edge:{TOKENS['edge']}",
            auth_addresses=auth.address,
            billing_addresses=address,
            router_addresses=address,
            tasks_addresses=address,
        )
        clients = Clients(settings=settings, tracer=tracer)
        await clients.start()
        refused = Refusals()
        teller = RefusalTeller(refusals=refused, auth=clients.auth, spender=uuid7())
        transport = httpx.ASGITransport(_app(clients, tracer, refused))
        async with httpx.AsyncClient(transport=transport, base_url="http://e") as http:
            yield Office(http=http, billing=billing, refusals=teller)
        await clients.close()
    await server.stop(0)


def _app(clients: Clients, tracer: Tracer, refused: Refusals) -> EdgeApp:
    spender = uuid7()
    admission = Admission(
        auth=AuthOwner(pipe=clients.auth),
        purse=Purse(billing=BillingOwner(pipe=clients.billing, spender=spender), spender=spender),
        tracer=tracer,
        clamps_short_credit=lambda: True,
    )
    own = own_site(
        clients=clients,
        admin_token=lambda: ADMIN_TOKEN,
        name="machine/0",
        edges=lambda: {"machine/0": ConfigState(hash="edge's")},
        registry=CollectorRegistry(),
        drain=DrainSwitch(),
        unready=lambda: None,
        forget=admission.forget,
    )
    claims = Claims(pipe=clients.claims, spender=spender)
    limits = Limits(keeper=LimitOwner(pipe=clients.auth, spender=spender))
    public = public_site(clients=clients, admission=admission, claims=claims, limits=limits, unsettled=lambda _: None)
    return EdgeApp(config=without_file(), public=public, own=own, hot={}, tracer=tracer, refusals=refused)
