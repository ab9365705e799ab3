"""A world for edge: real gRPC owners that keep a simple truth in memory, a bus, a sandbox, uvicorn on loopback."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import aiohttp
from prometheus_client import CollectorRegistry

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from chassis.pipe import PipeClient
from chassis.rpc import CallContext, Handler, RpcServer, RpcService
from chassis.telemetry import Tracer
from pricing.prices import PriceVersion, Rates
from services.edge.app import EdgeApp, new_fastapi
from services.edge.catalogue import Catalogue
from services.edge.config import without_file
from services.edge.http.hot import hot_routes
from services.edge.http.unread import UnreadRoom
from services.edge.http.uvicorn_server import HttpServer
from services.edge.idempotency.answers import Answers
from services.edge.idempotency.claims import Claims
from services.edge.idempotency.keyed_request import Idempotency
from services.edge.limits.limit_owner import LimitOwner
from services.edge.limits.limits import Limits
from services.edge.metrics import EdgeMetrics
from services.edge.owners import AuthOwner, BillingOwner, RouterOwner
from services.edge.paid.admission import Admission
from services.edge.paid.attempts import Attempts
from services.edge.paid.opening import Providers
from services.edge.paid.relay import Relay, Tools
from services.edge.spending.publisher import Publisher
from services.edge.spending.purse import Purse
from services.edge.spending.replay import Replay, end_spender, free_shares
from services.edge.spending.settlement import Settlement
from services.edge.spool.spool import Spool
from tests.unit.edge.claim_desk import ClaimDesk, Shelf
from tests.unit.edge.limit_desk import LimitDesk
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2, claims_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2
from upstream.client import UpstreamClient
from upstream.sandbox.provider import Sandbox

EDGE = frozenset({"edge"})
KEY = "tb_live_test"
CUSTOMER = "0192aaaa-0000-7000-8000-000000000001"
RATES = {"input": 1_000_000_000, "cached_input": 100_000_000, "cache_write": 1_000_000_000, "output": 4_000_000_000}
PRICE = PriceVersion(rates=Rates(**RATES), cost=Rates(**RATES))


@dataclasses.dataclass
class Truth:
    """What the owners know, and what a test may set."""

    balance_nano_usd: int = 1_000_000_000
    held: dict[str, int] = dataclasses.field(default_factory=dict)
    applied: dict[str, usage_pb2.UsageRecorded] = dataclasses.field(default_factory=dict)
    applied_count: int = 0
    confirms: int = 0
    asked: list[int] = dataclasses.field(default_factory=list)
    spenders: list[str] = dataclasses.field(default_factory=list)
    statements: list[list[str]] = dataclasses.field(default_factory=list)
    returned: list[str] = dataclasses.field(default_factory=list)
    lose_events: bool = False
    key_models: tuple[str, ...] = ()
    authorized: int = 0
    limits: auth_pb2.Limits | None = None
    keep_ms: int = 1000
    decisions: list[router_pb2.DecideRequest] = dataclasses.field(default_factory=list)
    finished: list[router_pb2.AttemptOutcome] = dataclasses.field(default_factory=list)
    routes: list[dict] = dataclasses.field(default_factory=lambda: [{}])
    max_output: int = 1000
    on_disconnect: str = "drain"
    drain_s: float = 5.0
    total_s: float = 30.0

    @property
    def available(self) -> int:
        return self.balance_nano_usd - sum(self.held.values())

    def apply(self, event: usage_pb2.UsageRecorded) -> None:
        """Applies an event once by its request."""
        if event.request_id in self.applied:
            return
        self.applied_count += 1
        self.applied[event.request_id] = event
        self.held.pop(event.hold_id, None)
        self.balance_nano_usd -= event.charge_nano_usd


class Bus:
    """A bus in memory, which a test can take down; billing hears what it carries."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.up = True
        self.messages = 0

    async def publish(self, subject, data, *, event_id, event_type, source, traceparent="", timeout_s=5.0) -> None:
        if not self.up:
            raise TollbridgeError(Code.UNAVAILABLE, "the bus is away")
        self.messages += 1
        if not self.truth.lose_events:
            for event in usage_pb2.UsageBatch.FromString(data).events:
                self.truth.apply(event)


class Owners:
    """Auth, router and billing behind one real gRPC server."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.claims = ClaimDesk()
        self.limits = LimitDesk()
        handlers = {
            claims_pb2: ("ClaimService", self.claims.methods),
            auth_pb2: ("AuthService", {"Authorize": self.authorize} | self.limits.methods),
            router_pb2: (
                "RouterService",
                {"Decide": self.decide, "ListModels": list_models}
                | {"FinishAttempt": self.finish_attempt, "StateAttempts": self.state_attempts},
            ),
            billing_pb2: (
                "BillingService",
                {
                    "GrantLease": self.grant,
                    "ReturnLease": self.give_back,
                    "StateLeases": self.state_leases,
                    "Confirm": self.confirm,
                    "RecordUsage": self.record,
                },
            ),
        }
        self.descriptors = {name: module.DESCRIPTOR.services_by_name[name] for module, (name, _) in handlers.items()}
        self.server = RpcServer(
            services=[
                RpcService(self.descriptors[name], {each: Handler(run, EDGE) for each, run in methods.items()})
                for name, methods in handlers.values()
            ],
            bind="127.0.0.1:0",
            tokens={"edge": "secret"},
            tracer=Tracer(service="test", replica="0", otlp_endpoint=""),
            registry=CollectorRegistry(),
        )

    async def authorize(self, request: auth_pb2.AuthorizeRequest, _: CallContext) -> auth_pb2.AuthorizeResponse:
        self.truth.authorized += 1
        if request.api_key != KEY:
            raise TollbridgeError(Code.INVALID_API_KEY, "Incorrect API key provided.")
        return auth_pb2.AuthorizeResponse(
            customer_id=CUSTOMER,
            key_id=CUSTOMER,
            plan="free",
            models=self.truth.key_models,
            limits=self.truth.limits,
            keep_ms=self.truth.keep_ms,
        )

    async def decide(self, request: router_pb2.DecideRequest, _: CallContext) -> router_pb2.DecideResponse:
        truth = self.truth
        truth.decisions.append(request)
        if request.model not in ("fast", "alias-of-fast"):
            raise TollbridgeError(Code.MODEL_NOT_FOUND, "There is no such model.", details={"param": "model"})
        number = len(request.tried)
        route = truth.routes[min(number, len(truth.routes) - 1)]
        rates = route.get("rates", RATES)
        reported = route.get("cost_reported", False)
        price = PriceVersion(rates=Rates(**rates), cost=Rates(**rates), cost_reported=reported)
        return router_pb2.DecideResponse(
            attempt_id=request.attempt_id,
            model="fast",
            provider_id=route.get("provider", "sandbox"),
            provider_account_id="sandbox-a",
            protocol=route.get("protocol", "sandbox"),
            base_url=route.get("base_url", "http://sandbox/v1"),
            credential="c-secret",
            provider_model=route.get("model", "sandbox-1"),
            max_tokens_field="max_tokens",
            without_stream_options=route.get("without_stream_options", False),
            timeouts=router_pb2.Timeouts(connect_s=2, first_byte_s=5, idle_s=5, total_s=truth.total_s),
            on_disconnect=truth.on_disconnect,
            drain_s=truth.drain_s,
            drain_at_once=10,
            price=router_pb2.PriceVersion(
                id=price.id,
                rates=router_pb2.Rates(**rates),
                cost=router_pb2.Rates(**rates),
                markup_ppm=1_000_000,
                cost_reported=reported,
            ),
            bounds=router_pb2.ModelBounds(
                **{"context": 8000, "max_output": truth.max_output, **route.get("bounds", {})}
            ),
            may_retry=number + 1 < len(truth.routes),
        )

    async def finish_attempt(self, request, _: CallContext) -> router_pb2.FinishAttemptResponse:
        self.truth.finished.append(request.outcome)
        return router_pb2.FinishAttemptResponse()

    async def state_attempts(self, request, _: CallContext) -> router_pb2.StateAttemptsResponse:
        return router_pb2.StateAttemptsResponse(renew_in_s=10)

    async def grant(self, request: billing_pb2.GrantLeaseRequest, _: CallContext) -> billing_pb2.GrantLeaseResponse:
        truth = self.truth
        truth.held.pop(request.replaces_hold_id, None)
        truth.asked.append(request.amount_nano_usd)
        available = truth.available
        amount = request.amount_nano_usd
        if amount > available and request.least_nano_usd:
            amount = available
        if amount > available or amount < request.least_nano_usd:
            details = {"affordable_nano_usd": str(available)}
            raise TollbridgeError(Code.INSUFFICIENT_CREDITS, "Not enough credits.", details=details)
        truth.held[request.hold_id] = amount
        return billing_pb2.GrantLeaseResponse(hold_id=request.hold_id, amount_nano_usd=amount, ttl_s=30)

    async def give_back(self, request, _: CallContext) -> billing_pb2.ReturnLeaseResponse:
        self.truth.returned.append(request.hold_id)
        self.truth.held.pop(request.hold_id, None)
        return billing_pb2.ReturnLeaseResponse()

    async def state_leases(self, request, _: CallContext) -> billing_pb2.StateLeasesResponse:
        stated = [lease.hold_id for lease in request.leases]
        self.truth.spenders.append(request.spender)
        self.truth.statements.append(stated)
        return billing_pb2.StateLeasesResponse(renew_in_s=10)

    async def confirm(self, request: billing_pb2.ConfirmRequest, _: CallContext) -> billing_pb2.ConfirmResponse:
        self.truth.confirms += 1
        states = [
            billing_pb2.EVENT_STATE_COMMITTED
            if key.request_id in self.truth.applied
            else billing_pb2.EVENT_STATE_MISSING
            for key in request.keys
        ]
        return billing_pb2.ConfirmResponse(states=states)

    async def record(self, request, _: CallContext) -> billing_pb2.RecordUsageResponse:
        for event in request.events:
            self.truth.apply(event)
        return billing_pb2.RecordUsageResponse(states=[billing_pb2.EVENT_STATE_COMMITTED] * len(request.events))


async def list_models(_: router_pb2.ListModelsRequest, __: CallContext) -> router_pb2.ListModelsResponse:
    return router_pb2.ListModelsResponse(models=[router_pb2.Model(id="fast", aliases=["alias-of-fast"])])


@dataclasses.dataclass
class World:
    """Everything a test looks at."""

    truth: Truth
    bus: Bus
    purse: Purse
    publisher: Publisher
    relay: Relay
    base_url: str
    session: aiohttp.ClientSession
    spool_dir: Path
    incarnation: UUID
    registry: CollectorRegistry
    clamps: list[bool]
    owners: Owners
    admission: Admission
    shelf: Shelf
    unread: UnreadRoom

    def body(self, directive: dict | None = None, **fields) -> dict:
        """A chat request whose message scripts the sandbox."""
        text = f"#sandbox {json.dumps(directive)}" if directive is not None else "Hello"
        return {"model": "fast", "messages": [{"role": "user", "content": text}], **fields}

    def post(self, body, *, key: str = KEY, path: str = "/chat/completions", **options):
        """Sends a request, of a chat unless `path` says otherwise."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **options.pop("headers", {})}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(f"{self.base_url}/v1{path}", data=data, headers=headers, **options)

    async def event_of(self, request_id: str) -> usage_pb2.UsageRecorded:
        """The event that billing applied for this request."""
        await until(lambda: request_id in self.truth.applied)
        return self.truth.applied[request_id]

    async def only_event(self) -> usage_pb2.UsageRecorded:
        """The one event that billing has applied."""
        await until(lambda: bool(self.truth.applied))
        assert len(self.truth.applied) == 1
        return next(iter(self.truth.applied.values()))

    async def settled(self) -> None:
        """Waits until nothing runs, nothing is held and nothing waits for billing."""
        await until(lambda: self.relay.in_flight == 0 and not self.truth.held and len(self.publisher) == 0)
        assert self.purse.open_count == 0


async def until(condition, *, within_s: float = 30.0) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def edge_world(
    spool_dir: Path, *, truth: Truth | None = None, tracer: Tracer | None = None, spool_bytes: int = 1 << 26
) -> AsyncIterator[World]:
    """A running edge with its world around it."""
    truth = truth or Truth()
    owners, bus = Owners(truth), Bus(truth)
    address = await owners.server.start()
    tracer = tracer or Tracer(service="edge", replica="0", otlp_endpoint="")
    incarnation = uuid7()
    pipes = {
        name: PipeClient(descriptor=descriptor, addresses=address, token="edge:secret", tracer=tracer)
        for name, descriptor in owners.descriptors.items()
    }
    for pipe in pipes.values():
        await pipe.start()
    await until(lambda: all(pipe.reachable for pipe in pipes.values()))
    billing = BillingOwner(pipe=pipes["BillingService"], spender=incarnation)
    router = RouterOwner(pipe=pipes["RouterService"], spender=incarnation)
    spool = Spool.open(
        spool_dir, incarnation=incarnation, sync="group", max_bytes=spool_bytes, loop=asyncio.get_running_loop()
    )
    purse = Purse(billing=billing, spender=incarnation)
    publisher = Publisher(bus=bus, billing=billing, forget=spool.forget, confirmed=purse.confirmed, source="/edge/0")
    registry, clamps = CollectorRegistry(), [True]
    client = UpstreamClient()
    await client.start()
    attempts, shelf = Attempts(router=router), Shelf()
    claims = Claims(pipe=pipes["ClaimService"], spender=incarnation)
    settlement = Settlement(spool=spool, purse=purse, outbox=publisher)
    limit_owner = LimitOwner(pipe=pipes["AuthService"], spender=incarnation)
    limits = Limits(keeper=limit_owner)
    tools = Tools(
        admission=Admission(
            auth=AuthOwner(pipe=pipes["AuthService"]), purse=purse, tracer=tracer, clamps_short_credit=lambda: clamps[0]
        ),
        limits=limits,
        router=router,
        attempts=attempts,
        settlement=settlement,
        idempotency=Idempotency(claims=claims, answers=Answers(store=shelf), adopter=settlement),
        providers=Providers(client=client, sandbox=Sandbox()),
        catalogue=Catalogue(router=pipes["RouterService"]),
        metrics=EdgeMetrics(registry=registry),
        tracer=tracer,
    )
    relay = Relay(tools=tools)
    app = EdgeApp(
        config=without_file(),
        public=new_fastapi(),
        own=new_fastapi(),
        hot=hot_routes(relay),
        tracer=tracer,
        bodies=relay.bodies,
        door=relay.door,
    )
    server = HttpServer(app=app, bind="127.0.0.1:0", grace_s=5)
    replay = Replay(
        directory=spool_dir,
        own=incarnation,
        outbox=publisher,
        free_shares=functools.partial(free_shares, router=router, limits=limit_owner),
        end_spender=functools.partial(end_spender, billing=billing, claims=claims),
    )
    tasks = [
        asyncio.create_task(run)
        for run in (replay.run(), publisher.run(), purse.run(), attempts.run(), limits.run(), server.serve())
    ]
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
    world = World(
        truth=truth,
        bus=bus,
        purse=purse,
        publisher=publisher,
        relay=relay,
        base_url=f"http://{server.address}",
        session=session,
        spool_dir=spool_dir,
        incarnation=incarnation,
        registry=registry,
        clamps=clamps,
        owners=owners,
        admission=tools.admission,
        shelf=shelf,
        unread=server.unread,
    )
    try:
        yield world
    finally:
        await session.close()
        server.stop()
        await asyncio.wait(tasks[-1:], timeout=10)
        await relay.drain(grace_s=1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        spool.close()
        await client.close()
        for pipe in pipes.values():
            await pipe.close()
        await owners.server.stop(0)
