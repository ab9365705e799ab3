"""What edge asks for in unit tests: auth, router and billing as one real gRPC server, and a bus.

They keep a simple truth in memory, which a test sets and looks at.
"""

import dataclasses

from prometheus_client import CollectorRegistry

from chassis.errors import Code, TollbridgeError
from chassis.rpc import CallContext, Handler, RpcServer, RpcService
from chassis.telemetry import Tracer
from pricing.prices import PriceVersion, Rates
from tests.unit.edge.claim_desk import ClaimDesk
from tests.unit.edge.limit_desk import LimitDesk
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2, claims_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2

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

    def has(self, request_id: str, kind: usage_pb2.UsageKind.ValueType) -> bool:
        """Whether nothing would come of such an event."""
        known = self.applied.get(request_id)
        return known is not None and kind in (known.kind, usage_pb2.USAGE_KIND_VOID)

    def apply(self, event: usage_pb2.UsageRecorded) -> None:
        """Applies an event once by its request and kind; of two ends of a request the charge is what is seen."""
        if self.has(event.request_id, event.kind):
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
        self.router_heard: set[str] = set()
        """Spenders that told router what they run, or of whom it was told that they are no more."""
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
        self.router_heard.add(request.spender)
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
            if self.truth.has(key.request_id, key.kind)
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
