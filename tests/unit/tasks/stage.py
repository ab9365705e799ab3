"""A tasks process in parts for tests: router and billing as real gRPC servers, the bus and the file store by hand."""

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Callable, Sequence

import grpc
import msgspec
import structlog
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from chassis import db, ids
from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from chassis.rpc import CallContext, Handler, RpcServer, RpcService
from chassis.status import error_of
from chassis.telemetry import Tracer
from pricing.prices import PriceVersion, Rates
from services.tasks.acceptance import Acceptance
from services.tasks.config import ResultsSection
from services.tasks.ends import Ends
from services.tasks.files.file_desk import FileDesk
from services.tasks.files.retention import Retention
from services.tasks.jobs import Job
from services.tasks.making import kinds
from services.tasks.making.kind import Providers
from services.tasks.news import News
from services.tasks.outbox import Letter, OutboxPublisher
from services.tasks.owners import Billing, Router
from services.tasks.server import ConfigState, TasksServer
from services.tasks.webhooks.due_webhooks import DueWebhooks
from services.tasks.webhooks.webhook_secrets import WebhookSecrets
from services.tasks.webhooks.webhooks import Webhooks
from services.tasks.work import claim_store
from services.tasks.work.backlog import BacklogWatch
from services.tasks.work.hold_keeper import PATIENCE_S, HoldKeeper
from services.tasks.work.shift import Shift
from services.tasks.work.stopper import Stopper
from services.tasks.work.sweeper import Sweeper
from services.tasks.work.worker import Worker
from services.tasks.work.workshop import Workshop
from tests.patience import promised
from tests.unit.tasks.clock import Clock, listening_for_long
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.tasks.v1 import tasks_pb2 as pb
from tollbridge.usage.v1 import usage_pb2
from upstream.client import UpstreamClient
from upstream.public_address import Network
from upstream.sandbox.provider import Sandbox
from upstream.webhook_deliveries import WebhookDeliveries

PRICE = PriceVersion(rates=Rates(per_image=20_000_000), cost=Rates(per_image=15_000_000), markup_ppm=1_300_000)
CHARGE_PER_IMAGE = 26_000_000
FREE = PriceVersion(rates=Rates(), cost=Rates())


def price_on_the_wire(price: PriceVersion) -> router_pb2.PriceVersion:
    """As router sends it."""
    return router_pb2.PriceVersion(
        id=price.id,
        rates=router_pb2.Rates(**dataclasses.asdict(price.rates)),
        cost=router_pb2.Rates(**dataclasses.asdict(price.cost)),
        markup_ppm=price.markup_ppm,
        cost_reported=price.cost_reported,
    )


class FakeRouter:
    """One image model on two sandbox accounts; remembers its attempts."""

    def __init__(self) -> None:
        self.decided: list[router_pb2.DecideRequest] = []
        self.finished: list[router_pb2.AttemptOutcome] = []
        self.stated: list[list[str]] = []
        self.deaf_to_statements = 0
        self.refusal: TollbridgeError | None = None

    async def decide(self, request: router_pb2.DecideRequest, _: CallContext) -> router_pb2.DecideResponse:
        if self.refusal is not None:
            raise self.refusal
        self.decided.append(request)
        return router_pb2.DecideResponse(
            attempt_id=request.attempt_id,
            model=request.model,
            provider_id="sandbox",
            provider_account_id=request.provider_account_id or f"sandbox-{len(request.tried)}",
            protocol="sandbox",
            base_url="http://sandbox.invalid",
            provider_model="sandbox-image",
            max_tokens_field="max_tokens",
            timeouts=router_pb2.Timeouts(connect_s=5, first_byte_s=60, idle_s=60, total_s=600),
            on_disconnect="drain",
            price=price_on_the_wire(FREE if request.model == "free" else PRICE),
            may_retry=True,
        )

    async def finish(
        self, request: router_pb2.FinishAttemptRequest, _: CallContext
    ) -> router_pb2.FinishAttemptResponse:
        self.finished.append(request.outcome)
        return router_pb2.FinishAttemptResponse()

    async def state(self, request: router_pb2.StateAttemptsRequest, _: CallContext) -> router_pb2.StateAttemptsResponse:
        if self.deaf_to_statements:
            self.deaf_to_statements -= 1
            raise TollbridgeError(Code.UNAVAILABLE, "Router is away.")
        self.stated.append(list(request.attempt_ids))
        return router_pb2.StateAttemptsResponse(renew_in_s=10)

    async def models(self, _request: Message, _: CallContext) -> router_pb2.ListModelsResponse:
        image = router_pb2.Model(
            id="pictures", category="image", aliases=["dall-e-3"], configured=True, price=price_on_the_wire(PRICE)
        )
        chat = router_pb2.Model(id="chatter", category="chat", configured=True, price=price_on_the_wire(PRICE))
        bare = router_pb2.Model(id="bare", category="image")
        free = router_pb2.Model(id="free", category="image", configured=True, price=price_on_the_wire(FREE))
        film = router_pb2.Model(id="film", category="video", configured=True, price=price_on_the_wire(FREE))
        return router_pb2.ListModelsResponse(models=[image, chat, bare, free, film])

    def service(self) -> RpcService:
        callers = frozenset({"tasks"})
        runs = {
            "Decide": self.decide,
            "FinishAttempt": self.finish,
            "StateAttempts": self.state,
            "ListModels": self.models,
        }
        return RpcService(
            descriptor=router_pb2.DESCRIPTOR.services_by_name["RouterService"],
            handlers={name: Handler(run=run, callers=callers) for name, run in runs.items()},
        )


class FakeBilling:
    """Holds money out of one purse, and knows the events that reached it."""

    def __init__(self) -> None:
        self.available = 10_000_000_000
        self.holds: dict[str, int] = {}
        self.known: set[tuple[str, int]] = set()
        self.over: set[str] = set()
        self.deadlines: dict[str, int] = {}
        self.not_extending: TollbridgeError | None = None
        self.caps: dict[str, list[billing_pb2.SpendCap]] = {}

    async def hold(self, request: billing_pb2.HoldRequest, _: CallContext) -> billing_pb2.HoldResponse:
        if request.hold_id in self.over:
            raise TollbridgeError(Code.CONFLICT, "The hold is over.")
        if request.hold_id not in self.holds:
            if request.amount_nano_usd > self.available:
                raise TollbridgeError(Code.INSUFFICIENT_CREDITS, "No money.")
            self.available -= request.amount_nano_usd
            self.holds[request.hold_id] = request.amount_nano_usd
            self.deadlines[request.hold_id] = request.deadline_us
            self.caps[request.hold_id] = list(request.caps)
        return billing_pb2.HoldResponse(hold_id=request.hold_id, amount_nano_usd=self.holds[request.hold_id])

    async def extend(self, request: billing_pb2.ExtendHoldRequest, _: CallContext) -> billing_pb2.ExtendHoldResponse:
        if self.not_extending is not None:
            raise self.not_extending
        self.deadlines[request.hold_id] = request.deadline_us
        return billing_pb2.ExtendHoldResponse()

    async def confirm(self, request: billing_pb2.ConfirmRequest, _: CallContext) -> billing_pb2.ConfirmResponse:
        known, missing = billing_pb2.EVENT_STATE_COMMITTED, billing_pb2.EVENT_STATE_MISSING
        states = [known if (key.request_id, key.kind) in self.known else missing for key in request.keys]
        return billing_pb2.ConfirmResponse(states=states)

    def service(self) -> RpcService:
        callers = frozenset({"tasks"})
        return RpcService(
            descriptor=billing_pb2.DESCRIPTOR.services_by_name["BillingService"],
            handlers={
                "Hold": Handler(run=self.hold, callers=callers),
                "ExtendHold": Handler(run=self.extend, callers=callers),
                "Confirm": Handler(run=self.confirm, callers=callers),
            },
        )


class MemoryResults:
    """A store of files that can be away."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fails = 0

    async def put(self, file_id: str, data: bytes) -> None:
        if self.fails:
            self.fails -= 1
            raise TollbridgeError(Code.UNAVAILABLE, "The store is away.")
        self.files[file_id] = data

    async def read(self, file_id: str, *, start: int, length: int) -> bytes:
        return self.files[file_id][start : start + length]

    async def delete(self, file_id: str) -> None:
        if self.fails:
            self.fails -= 1
            raise TollbridgeError(Code.UNAVAILABLE, "The store is away.")
        self.files.pop(file_id, None)

    async def close(self) -> None:
        return None


async def nobody_listens(_: Job) -> None:
    """Takes news of a job's steps."""


class TasksProcess:
    """The parts of one tasks process; the bus is the test, which carries letters by hand."""

    def __init__(
        self, *, pool: db.Pool, pipes: tuple[PipeClient, PipeClient], fakes: tuple[FakeRouter, FakeBilling]
    ) -> None:
        log = structlog.get_logger()
        self.pool = pool
        self.router, self.billing = fakes
        self.spender = str(uuid.uuid4())
        self.clock = Clock()
        self.routing = Router(pipe=pipes[0], spender=self.spender, log=log, clock=self.clock)
        self.money = Billing(pipe=pipes[1], log=log)
        self.sent: list[Letter] = []
        self.outbox = OutboxPublisher(pool=pool, publish=self._send, committed=self.money.committed, log=log)
        self.ends = Ends(pool=pool, on_outbox=self.outbox.wake, keep_s=lambda: self.rules.keep_s)
        self.results = MemoryResults()
        self.rules = ResultsSection()
        self.retention = Retention(pool=pool, results=self.results, log=log)
        self.networks: list[Network] = []
        secrets = WebhookSecrets({1: b"k" * 32})
        webhooks = Webhooks(pool=pool, secrets=secrets, allowed=lambda: self.networks)
        due = DueWebhooks(pool=pool, secrets=secrets, allowed=lambda: self.networks)
        self.deliveries = WebhookDeliveries(due=due, log=log)
        self.holds = HoldKeeper(pool=pool, extend=self.money.extend, log=log, patience_s=promised(PATIENCE_S))
        self.acceptance = Acceptance(
            pool=pool,
            models=self.routing.models,
            hold=self.money.hold,
            keep_hold=self.holds.keep,
            webhooks=webhooks,
            on_outbox=self.outbox.wake,
            rules=lambda: self.rules,
        )
        providers = Providers(client=UpstreamClient(), sandbox=Sandbox())
        self.workshop = Workshop(router=self.routing, providers=providers)
        self.stopper = Stopper(pool=pool, stop=self.workshop.stop, log=log)
        self.worker = Worker(
            pool=pool,
            ends=self.ends,
            workshop=self.workshop,
            results=self.results,
            extend_hold=self.money.extend,
            tracer=Tracer(service="test", replica="0", otlp_endpoint=""),
            tell=nobody_listens,
            log=log,
        )
        self.news = News()
        self.backlog = BacklogWatch(pool=pool, kinds=kinds.KINDS, log=log)
        self.sweeper = Sweeper(
            pool=pool,
            ends=self.ends,
            listening=listening_for_long(self.clock),
            on_outbox=self.outbox.wake,
            log=log,
        )
        self.server = TasksServer(
            pool=pool,
            acceptance=self.acceptance,
            ends=self.ends,
            files=FileDesk(pool=pool, results=self.results, retention=self.retention),
            news=self.news,
            webhooks=webhooks,
            config_state=ConfigState,
        )

    async def _send(self, letters: Sequence[Letter]) -> None:
        self.sent += letters

    async def publish(self) -> list[Letter]:
        """Empties the outbox; what left it."""
        self.sent.clear()
        while await self.outbox.publish_once():
            pass
        return list(self.sent)

    async def sql(self, statement: str) -> None:
        """Changes the tables by hand."""
        async with db.transaction(self.pool) as conn:
            await conn.execute(statement.encode())

    async def claimed(self, kind: str = "image") -> Job | None:
        """The job whose turn it is, as soon as it may be taken."""
        async with db.transaction(self.pool) as conn:
            await conn.execute("UPDATE tasks.tasks SET not_before_us = 0")
            return await claim_store.claim_next(conn, kind, spender=self.spender)

    async def run(self) -> float | None:
        """Runs the job whose turn it is, if there is one: the pause until it is due again, None when it has ended."""
        job = await self.claimed()
        return None if job is None else await asyncio.wait_for(self.worker.run(job), 20)

    def shift(
        self,
        *,
        at_once: int = 4,
        kind: str = "image",
        run: Callable[[Job], Awaitable[object]] | None = None,
    ) -> Shift:
        """One that works for a kind."""
        return Shift(
            kind=kind,
            at_once=at_once,
            pool=self.pool,
            spender=self.spender,
            run=run or self.worker.run,
            give_back=self.worker.give_back,
            is_elsewhere=self.worker.is_submitted,
            log=structlog.get_logger(),
        )


@dataclasses.dataclass
class TasksApi:
    """A process whose server is reached over gRPC."""

    process: TasksProcess
    channel: grpc.aio.Channel
    customer_id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))

    async def call(self, method: str, request: Message, kind: type[Message], *, caller: str = "edge"):
        run = self.channel.unary_unary(
            f"/tollbridge.tasks.v1.TasksService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=kind.FromString,
        )
        try:
            return await run(request, timeout=30, metadata=(("authorization", f"{caller}:{caller}"),))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error

    async def create(self, *, prompt: str = "a bridge", n: int = 1, **fields) -> pb.Task:
        fields.setdefault("task_id", str(ids.uuid7()))
        fields.setdefault("customer_id", self.customer_id)
        fields.setdefault("kind", "image")
        fields.setdefault("model", "dall-e-3")
        fields.setdefault("body", msgspec.json.encode({"prompt": prompt, "n": n}))
        request = pb.CreateTaskRequest(**fields)
        return (await self.call("CreateTask", request, pb.CreateTaskResponse)).task

    async def get(self, task_id: str, **fields) -> pb.Task:
        request = pb.GetTaskRequest(task_id=task_id, **fields)
        return (await self.call("GetTask", request, pb.GetTaskResponse)).task

    async def file(self, file_id: str, *, customer_id: str, **link) -> tuple[str, bytes]:
        pieces = await self.pieces(pb.GetResultRequest(file_id=file_id, customer_id=customer_id, **link))
        return pieces[0].content_type, b"".join(piece.data for piece in pieces)

    async def pieces(self, request: pb.GetResultRequest) -> list[pb.GetResultResponse]:
        run = self.channel.unary_stream(
            "/tollbridge.tasks.v1.TasksService/GetResult",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.GetResultResponse.FromString,
        )
        try:
            return [piece async for piece in run(request, timeout=30, metadata=(("authorization", "edge:edge"),))]
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error


def usage_of(letters: Sequence[Letter]) -> list[usage_pb2.UsageRecorded]:
    """The usage records among some letters."""
    return [usage_pb2.UsageRecorded.FromString(letter.payload) for letter in letters if letter.kind == "usage"]


def rpc_server(services: list[RpcService], tokens: dict[str, str]) -> RpcServer:
    return RpcServer(
        services=services,
        bind="127.0.0.1:0",
        tokens=tokens,
        tracer=Tracer(service="test", replica="0", otlp_endpoint=""),
        registry=CollectorRegistry(),
    )
