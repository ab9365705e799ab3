"""Billing's server as its callers meet it: real gRPC, real PostgreSQL, the composition that the process runs."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from chassis.pipe import PipeClient
from chassis.rpc import RpcServer
from chassis.telemetry import Tracer
from services.billing.ledger import Usage, UsageKind
from services.billing.parts import Others, Parts
from services.billing.settings import Settings
from tests.patience import promised
from tests.unit.billing.bank import event, price_message
from tollbridge.billing.v1 import billing_pb2 as pb
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2

CREDIT = 1_000


class Caller:
    """One service's pipe to billing."""

    def __init__(self, pipe: PipeClient) -> None:
        self.pipe = pipe

    async def call(self, method: str, request: Message) -> Message:
        answer = getattr(pb, f"{method}Response")
        found: Message = await self.pipe.call(method, request, answer, timeout_s=30)
        return found

    async def refusal(self, method: str, request: Message) -> TollbridgeError:
        with pytest.raises(TollbridgeError) as caught:
            await self.call(method, request)
        return caught.value


@pytest.fixture
async def callers(billing_url: str) -> AsyncIterator[dict[str, Caller]]:
    """Edge, the command line and a stranger, each with its own token."""
    tracer, registry = Tracer(service="test", replica="0", otlp_endpoint=""), CollectorRegistry()
    pool = await db.open_pool(billing_url, role="billing")
    pool.timeout = promised(pool.timeout)

    async def ask_router(_version_id: str) -> router_pb2.PriceVersion:
        return price_message()

    async def suspend(_customer_id: str, _cause: str) -> None:
        raise AssertionError("nothing was taken back")

    settings = Settings(database_url=billing_url)
    log = structlog.get_logger()
    others = Others(ask_router=ask_router, suspend=suspend)
    parts = Parts(settings=settings, pool=pool, others=others, tracer=tracer, registry=registry, log=log)
    server = RpcServer(
        services=[parts.server.service()],
        bind="127.0.0.1:0",
        tokens={"edge": "e", "cli": "c", "router": "r"},
        tracer=tracer,
        registry=CollectorRegistry(),
    )
    address = await server.start()
    descriptor = pb.DESCRIPTOR.services_by_name["BillingService"]
    made = {
        name: PipeClient(descriptor=descriptor, addresses=address, token=f"{name}:{secret}", tracer=tracer)
        for name, secret in (("edge", "e"), ("cli", "c"), ("router", "r"))
    }
    for pipe in made.values():
        await pipe.start()
    yield {name: Caller(pipe) for name, pipe in made.items()}
    for pipe in made.values():
        await pipe.close()
    await server.stop(1)
    await parts.grants.close()
    await pool.close()


class Request:
    """A customer with credit, and one request of theirs."""

    def __init__(self, edge: Caller) -> None:
        self.edge = edge
        self.customer_id, self.spender = f"customer-{uuid4()}", str(uuid7())
        self.hold_id, self.request_id = uuid7(), uuid7()

    async def open(self) -> None:
        await self.edge.call("OpenAccount", pb.OpenAccountRequest(customer_id=self.customer_id))
        credit = pb.AdjustCreditRequest(
            request_id=str(uuid4()), customer_id=self.customer_id, amount_nano_usd=CREDIT, reason="test"
        )
        await self.edge.call("AdjustCredit", credit)

    def lease(self, amount: int = 400, hold_id: UUID | None = None) -> pb.GrantLeaseRequest:
        return pb.GrantLeaseRequest(
            hold_id=str(hold_id or self.hold_id),
            customer_id=self.customer_id,
            spender=self.spender,
            amount_nano_usd=amount,
            request_id=str(self.request_id),
        )

    def usage(self, amount: int = 300) -> usage_pb2.UsageRecorded:
        return event(
            Usage(
                request_id=self.request_id,
                kind=UsageKind.CHARGE,
                customer_id=self.customer_id,
                hold_id=self.hold_id,
                closes_hold=True,
                charge_nano_usd=amount,
            )
        )

    async def balance(self) -> tuple[int, int, int]:
        answer = await self.edge.call("GetBalance", pb.GetBalanceRequest(customer_id=self.customer_id))
        assert isinstance(answer, pb.GetBalanceResponse)
        found = answer.balance
        return found.balance_nano_usd, found.held_nano_usd, found.available_nano_usd


@pytest.fixture
async def request_(callers: dict[str, Caller]) -> Request:
    made = Request(callers["edge"])
    await made.open()
    return made


async def test_a_request_from_its_lease_to_its_refund(request_: Request):
    """Granted, charged, confirmed, shown and given back: each answer says what the ledger holds."""
    it, edge = request_, request_.edge
    granted = await edge.call("GrantLease", it.lease())
    assert isinstance(granted, pb.GrantLeaseResponse)
    assert (granted.amount_nano_usd, granted.available_nano_usd) == (400, CREDIT - 400)
    key = pb.EventKey(request_id=str(it.request_id), kind=usage_pb2.USAGE_KIND_CHARGE)
    unknown = await edge.call("Confirm", pb.ConfirmRequest(keys=[key]))
    assert unknown == pb.ConfirmResponse(states=[pb.EVENT_STATE_MISSING])
    pending = await edge.call("GetReceipt", pb.GetReceiptRequest(request_id=str(it.request_id)))
    assert isinstance(pending, pb.GetReceiptResponse)
    assert not pending.receipt.settled
    applied = await edge.call("RecordUsage", pb.RecordUsageRequest(events=[it.usage(), it.usage()]))
    assert applied == pb.RecordUsageResponse(states=[pb.EVENT_STATE_COMMITTED] * 2)
    confirmed = await edge.call("Confirm", pb.ConfirmRequest(keys=[key]))
    assert confirmed == pb.ConfirmResponse(states=[pb.EVENT_STATE_COMMITTED])
    assert await it.balance() == (700, 0, 700)
    shown = await edge.call("GetReceipt", pb.GetReceiptRequest(request_id=str(it.request_id)))
    assert isinstance(shown, pb.GetReceiptResponse)
    assert (shown.receipt.settled, shown.receipt.charged_nano_usd) == (True, 300)
    assert [(one.kind, one.amount_nano_usd) for one in shown.receipt.transfers] == [("charge", 300)]
    refund = pb.RefundRequest(request_id=str(it.request_id), reason="test", call_id="1")
    assert await edge.call("Refund", refund) == await edge.call("Refund", refund)
    assert await it.balance() == (CREDIT, 0, CREDIT)
    page = await edge.call("ListReceipts", pb.ListReceiptsRequest(customer_id=it.customer_id))
    assert isinstance(page, pb.ListReceiptsResponse)
    assert [(one.charged_nano_usd, one.settled) for one in page.receipts] == [(0, True)]


async def test_an_event_is_not_known_by_its_twin_that_was_set_aside(request_: Request):
    """Two runs of a request end: the spool of the one that billing never saw must not forget it."""
    it, edge = request_, request_.edge
    await edge.call("GrantLease", it.lease())
    lost, wrong = it.usage(), it.usage()
    wrong.charge_nano_usd += 1
    applied = await edge.call("RecordUsage", pb.RecordUsageRequest(events=[wrong]))
    assert applied == pb.RecordUsageResponse(states=[pb.EVENT_STATE_DEAD_LETTERED])
    keys = [
        pb.EventKey(request_id=str(it.request_id), kind=usage_pb2.USAGE_KIND_CHARGE, event_id=event_id)
        for event_id in (wrong.event_id, lost.event_id, "")
    ]
    told = await edge.call("Confirm", pb.ConfirmRequest(keys=keys))
    aside, missing = pb.EVENT_STATE_DEAD_LETTERED, pb.EVENT_STATE_MISSING
    assert told == pb.ConfirmResponse(states=[aside, missing, aside])
    await edge.call("RecordUsage", pb.RecordUsageRequest(events=[lost]))
    told = await edge.call("Confirm", pb.ConfirmRequest(keys=keys))
    assert told == pb.ConfirmResponse(states=[pb.EVENT_STATE_COMMITTED] * 3)


async def test_refusals_arrive_with_their_code_and_details(request_: Request):
    """What billing says is what its caller reads, behind the wire too."""
    it, edge = request_, request_.edge
    poor = await edge.refusal("GrantLease", it.lease(CREDIT + 1))
    assert (poor.code, poor.details["affordable_nano_usd"]) == (Code.INSUFFICIENT_CREDITS, str(CREDIT))
    await edge.call("GrantLease", it.lease())
    theirs = it.lease()
    theirs.spender = str(uuid7())
    for method, message, code in (
        ("GrantLease", theirs, Code.IDEMPOTENCY_MISMATCH),
        ("GrantLease", pb.GrantLeaseRequest(hold_id="x"), Code.INVALID_REQUEST),
        ("GetBalance", pb.GetBalanceRequest(customer_id="nobody"), Code.NOT_FOUND),
        ("GetReceipt", pb.GetReceiptRequest(request_id=str(uuid7())), Code.NOT_FOUND),
        ("Refund", pb.RefundRequest(request_id=str(it.request_id)), Code.NOT_SETTLED),
    ):
        assert (await edge.refusal(method, message)).code is code
    bad = await edge.refusal("GetBalance", pb.GetBalanceRequest(customer_id="with blank"))
    assert bad.details["param"] == "customer_id"
    assert await it.balance() == (CREDIT, 400, CREDIT - 400)


async def test_receipts_of_a_customer_that_can_not_be_are_refused_by_name(request_: Request):
    """PostgreSQL takes no NUL, and what it can't take must not be an internal error."""
    for ask in (
        pb.ListReceiptsRequest(customer_id="\0"),
        pb.GetReceiptRequest(request_id=str(request_.request_id), customer_id="\0"),
    ):
        with pytest.raises(TollbridgeError) as refused:
            await request_.edge.call(type(ask).__name__.removesuffix("Request"), ask)
        assert refused.value.code is Code.INVALID_REQUEST
        assert refused.value.details == {"param": "customer_id"}


async def test_the_log_is_listed_by_how_requests_ended(request_: Request):
    """What a provider or we broke, in pages, the newest first, also of everybody; a way that there isn't is refused."""
    it, edge = request_, request_.edge
    ways = (usage_pb2.ENDED_UPSTREAM_FAILED, usage_pb2.ENDED_CLIENT_GONE, usage_pb2.ENDED_GATEWAY_FAILED)
    ids = sorted(str(uuid7()) for _ in range(4))
    made = list(zip(ids, (*ways, usage_pb2.ENDED_COMPLETE), strict=True))
    terms: dict[str, Any] = {"kind": UsageKind.VOID, "customer_id": it.customer_id, "charge_nano_usd": 0}
    voids = [
        event(Usage(request_id=UUID(id_), hold_id=None, closes_hold=False, **terms), ended=ended) for id_, ended in made
    ]
    await edge.call("RecordUsage", pb.RecordUsageRequest(events=voids))
    broken = (usage_pb2.ENDED_GATEWAY_FAILED, usage_pb2.ENDED_UPSTREAM_FAILED)

    async def listed(customer_id: str = it.customer_id, **asked: Any) -> tuple[list[str], bool]:
        page = await edge.call("ListReceipts", pb.ListReceiptsRequest(customer_id=customer_id, **asked))
        assert isinstance(page, pb.ListReceiptsResponse)
        return [each.usage.request_id for each in page.receipts], page.has_more

    assert await listed(ended=broken) == ([made[2][0], made[0][0]], False)
    assert await listed("", ended=broken, limit=1) == ([made[2][0]], True)
    assert (await listed("", ended=broken, limit=1, after=made[2][0]))[0] == [made[0][0]]
    assert await listed(ended=[usage_pb2.ENDED_COMPLETE]) == ([made[3][0]], False)
    assert len((await listed())[0]) == len(made)
    for unknown in (0, 99):
        refused = await edge.refusal("ListReceipts", pb.ListReceiptsRequest(ended=[unknown]))  # type: ignore[list-item]  # what no enum has
        assert (refused.code, refused.details["param"]) == (Code.INVALID_REQUEST, "ended")


async def test_a_capped_request_counts_from_its_lease_to_its_refund(request_: Request):
    """What its owner spent in the period of now is told in the order of asking; who spent nothing has spent 0."""
    it, edge = request_, request_.edge
    caps = [
        pb.SpendCap(owner=f"key:{uuid4()}", per="day", amount_nano_usd=450),
        pb.SpendCap(owner=f"customer:{it.customer_id}", per="total", amount_nano_usd=CREDIT),
        pb.SpendCap(owner=f"key:{uuid4()}", per="month", amount_nano_usd=1),
    ]

    async def spent() -> list[tuple[int, int]]:
        answer = await edge.call("GetSpend", pb.GetSpendRequest(caps=caps))
        assert isinstance(answer, pb.GetSpendResponse)
        return [(each.spent_nano_usd, each.held_nano_usd) for each in answer.spends]

    def lease(amount: int = 400, hold_id: UUID | None = None) -> pb.GrantLeaseRequest:
        asked = it.lease(amount, hold_id)
        asked.caps.extend(caps[:2])
        return asked

    await edge.call("GrantLease", lease())
    assert await spent() == [(0, 400), (0, 400), (0, 0)]
    await edge.call("RecordUsage", pb.RecordUsageRequest(events=[it.usage(300)]))
    assert await spent() == [(300, 0), (300, 0), (0, 0)]
    refused = await edge.refusal("GrantLease", lease(151, uuid7()))
    assert (refused.code, refused.details["affordable_nano_usd"]) == (Code.SPEND_CAP_REACHED, "150")
    await edge.call("Refund", pb.RefundRequest(request_id=str(it.request_id), reason="test"))
    assert await spent() == [(0, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("cap", "request_id"),
    [
        ({}, ""),
        ({}, str(uuid4())),
        ({"owner": "k"}, None),
        ({"owner": "key:with blank"}, None),
        ({"per": "year"}, None),
        ({"amount_nano_usd": 0}, None),
    ],
    ids=["no request", "no UUIDv7", "no kind of owner", "blank", "no period", "nothing"],
)
async def test_a_cap_that_can_not_be_counted_is_refused(
    request_: Request, cap: dict[str, object], request_id: str | None
):
    """Never ignored: without a period or an owner nothing would be kept."""
    asked = request_.lease()
    fields = {"owner": "key:k", "per": "day", "amount_nano_usd": 500} | cap
    asked.caps.append(pb.SpendCap(**fields))  # type: ignore[arg-type]  # wrong on purpose, one by one
    asked.request_id = asked.request_id if request_id is None else request_id
    assert (await request_.edge.refusal("GrantLease", asked)).code is Code.INVALID_REQUEST
    assert await request_.balance() == (CREDIT, 0, CREDIT)


async def test_a_dead_letter_is_told_and_keeps_its_hold(request_: Request):
    """The spool may forget it: an operator has it now."""
    it, edge = request_, request_.edge
    await edge.call("GrantLease", it.lease())
    wrong = it.usage()
    wrong.charge_nano_usd += 1
    applied = await edge.call("RecordUsage", pb.RecordUsageRequest(events=[wrong]))
    assert applied == pb.RecordUsageResponse(states=[pb.EVENT_STATE_DEAD_LETTERED])
    assert await it.balance() == (CREDIT, 400, CREDIT - 400)


async def test_a_method_is_for_those_who_may_call_it(callers: dict[str, Caller], request_: Request):
    """A service's token opens what it needs, and nothing that moves money otherwise."""
    refused = await callers["router"].refusal("GrantLease", request_.lease())
    assert refused.code is Code.PERMISSION_DENIED
    spending = await callers["cli"].refusal("RecordUsage", pb.RecordUsageRequest(events=[request_.usage()]))
    assert spending.code is Code.PERMISSION_DENIED
    assert await request_.balance() == (CREDIT, 0, CREDIT)
