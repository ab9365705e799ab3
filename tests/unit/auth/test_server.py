"""auth on a real PostgreSQL and over real gRPC: idempotence, rights, refusals, paging and revocation."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import psycopg
import pytest
import structlog
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.rpc import RpcServer
from chassis.status import error_of
from chassis.telemetry import Tracer
from services.auth import directory as auth_directory
from services.auth.changes import ChangeOutbox, ChangePoll
from services.auth.parts import Parts
from services.auth.settings import Settings
from tollbridge.auth.v1 import auth_pb2 as pb

PEPPERS = "1:" + "5a" * 32
TOKENS = {"edge": "e", "cli": "c", "tasks": "t", "billing": "b"}
DEFAULT_CUSTOMER = str(uuid.uuid4())


class Replica:
    """One auth replica with its poll, reached over gRPC."""

    def __init__(self, parts: Parts, address: str, pool: db.Pool) -> None:
        self.parts = parts
        self.pool = pool
        self._channel = grpc.aio.insecure_channel(address)

    async def call(self, method: str, request: Message, kind: type[Message], *, caller: str = "edge"):
        """One unary call; raises TollbridgeError with the server's code."""
        run = self._channel.unary_unary(
            f"/tollbridge.auth.v1.AuthService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=kind.FromString,
        )
        try:
            return await run(request, timeout=10, metadata=(("authorization", f"{caller}:{TOKENS[caller]}"),))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error

    async def authorize(self, secret: str, **fields) -> pb.AuthorizeResponse:
        return await self.call("Authorize", pb.AuthorizeRequest(api_key=secret, **fields), pb.AuthorizeResponse)

    async def new_key(self, **fields) -> pb.CreateKeyResponse:
        fields.setdefault("request_id", str(uuid.uuid4()))
        return await self.call("CreateKey", pb.CreateKeyRequest(**fields), pb.CreateKeyResponse)

    async def new_customer(self, **fields) -> pb.Customer:
        fields.setdefault("request_id", str(uuid.uuid4()))
        fields.setdefault("name", "Somebody")
        request = pb.CreateCustomerRequest(**fields)
        return (await self.call("CreateCustomer", request, pb.CreateCustomerResponse)).customer

    async def close(self) -> None:
        await self._channel.close()


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Replica]:
    """A replica for the time of the block."""
    pool = await db.open_pool(url, role="auth")
    await db.wait_for_schema(pool, service="auth", timeout_s=10)
    parts = Parts(
        settings=Settings(key_peppers=PEPPERS, default_customer_id=DEFAULT_CUSTOMER),
        pool=pool,
        log=structlog.get_logger(),
    )
    server = RpcServer(
        services=[parts.server.service()],
        bind="127.0.0.1:0",
        tokens=TOKENS,
        tracer=Tracer(service="auth", replica="0", otlp_endpoint=""),
        registry=CollectorRegistry(),
    )
    replica = Replica(parts, await server.start(), pool)
    poll = asyncio.create_task(ChangePoll(pool=pool, kept=parts.kept, log=structlog.get_logger()).run())
    try:
        yield replica
    finally:
        poll.cancel()
        await replica.close()
        await server.stop(0)
        await parts.authorizer.close()
        await pool.close()


@pytest.fixture(scope="module")
async def database(postgres_url: str) -> str:
    await asyncio.to_thread(db.migrate, postgres_url, service="auth")
    return postgres_url


@pytest.fixture(scope="module")
async def replica(database: str) -> AsyncIterator[Replica]:
    async with running(database) as one:
        yield one


async def refused(call) -> Code:
    with pytest.raises(TollbridgeError) as caught:
        await call
    return caught.value.code


async def test_a_new_key_lets_its_customer_in(replica: Replica):
    """With the limits, models and cap it was made with."""
    customer = await replica.new_customer(email="a@example.com")
    limits = pb.Limits(requests_per_minute=7)
    made = await replica.new_key(
        customer_id=customer.id,
        name="laptop",
        models=["m1", "m2"],
        limits=limits,
        spend_cap=pb.SpendCap(amount_nano_usd=5_000_000_000, per="day"),
    )
    answer = await replica.authorize(made.secret)
    assert (answer.customer_id, answer.key_id) == (customer.id, made.key.id)
    assert answer.limits.requests_per_minute == 7
    assert list(answer.models) == ["m1", "m2"]
    assert answer.spend_cap.per == "day"
    assert 0 < answer.keep_ms <= 1000
    assert made.key.prefix == made.secret[:12]


async def test_neither_secret_nor_anything_it_could_be_guessed_from_is_stored(replica: Replica, database: str):
    """A dump of the database lets nobody in; after the hour not even with the pepper."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    with psycopg.connect(database) as conn:
        dump = str(conn.execute("SELECT * FROM auth.api_keys WHERE id = %s", (made.key.id,)).fetchall())
    assert made.secret not in dump
    assert made.secret[12:] not in dump


async def test_the_same_request_makes_one_key_with_one_secret(replica: Replica):
    """Twenty twins at once, and one later."""
    customer = await replica.new_customer()
    request = {"request_id": str(uuid.uuid4()), "customer_id": customer.id, "name": "twin"}
    made = await asyncio.gather(*(replica.new_key(**request) for _ in range(20)))
    assert len({answer.secret for answer in made}) == 1
    assert len({answer.key.id for answer in made}) == 1
    listed = await replica.call("ListKeys", pb.ListKeysRequest(customer_id=customer.id), pb.ListKeysResponse)
    assert len(listed.keys) == 1


async def test_the_same_request_id_with_other_content_is_refused(replica: Replica):
    """An id stands for one thing."""
    customer = await replica.new_customer()
    request_id = str(uuid.uuid4())
    await replica.new_key(request_id=request_id, customer_id=customer.id, name="one")
    other = replica.new_key(request_id=request_id, customer_id=customer.id, name="other")
    assert await refused(other) is Code.IDEMPOTENCY_MISMATCH


async def test_after_an_hour_the_secret_can_not_be_had_again(replica: Replica, monkeypatch: pytest.MonkeyPatch):
    """The seed is wiped, the key goes on."""
    customer = await replica.new_customer()
    request = {"request_id": str(uuid.uuid4()), "customer_id": customer.id}
    made = await replica.new_key(**request)
    monkeypatch.setattr(auth_directory, "REPLAY_US", -1_000_000)
    await replica.parts.directory.forget_old()
    assert await refused(replica.new_key(**request)) is Code.CONFLICT
    assert (await replica.authorize(made.secret)).key_id == made.key.id


async def test_a_customer_is_made_once_by_request_and_by_wished_id(replica: Replica):
    """Concurrent starts of one installation agree on the default customer."""
    made = await asyncio.gather(
        *(replica.new_customer(customer_id=DEFAULT_CUSTOMER, name=f"n{number}") for number in range(8))
    )
    assert len({customer.name for customer in made}) == 1
    got = await replica.call("GetCustomer", pb.GetCustomerRequest(), pb.GetCustomerResponse)
    assert got.customer.id == DEFAULT_CUSTOMER
    assert (await replica.new_key(name="for the default customer")).key.customer_id == DEFAULT_CUSTOMER


@pytest.mark.parametrize("status", [pb.CUSTOMER_STATUS_SUSPENDED, pb.CUSTOMER_STATUS_BANNED])
async def test_a_suspended_customer_is_refused_at_once_and_let_in_again(replica: Replica, status: int):
    """Kept answers of this replica are dropped by the poll."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    await replica.authorize(made.secret)

    async def set_status(wanted: int) -> None:
        request = pb.UpdateCustomerRequest(request_id=str(uuid.uuid4()), customer_id=customer.id, status=wanted)
        await replica.call("UpdateCustomer", request, pb.UpdateCustomerResponse)

    await set_status(status)
    assert await until_refused(replica, made.secret) is Code.CUSTOMER_SUSPENDED
    await set_status(pb.CUSTOMER_STATUS_ACTIVE)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            await replica.authorize(made.secret)
        except TollbridgeError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("the customer was not let in again")


async def test_a_repeated_update_does_not_undo_what_came_after_it(replica: Replica):
    """A retry of a lost answer is no second change."""
    customer = await replica.new_customer()
    first = pb.UpdateCustomerRequest(
        request_id="first-" + customer.id, customer_id=customer.id, status=pb.CUSTOMER_STATUS_SUSPENDED
    )
    second = pb.UpdateCustomerRequest(
        request_id="second-" + customer.id, customer_id=customer.id, status=pb.CUSTOMER_STATUS_ACTIVE
    )
    for request in (first, second, first):
        answer = await replica.call("UpdateCustomer", request, pb.UpdateCustomerResponse)
    assert answer.customer.status == pb.CUSTOMER_STATUS_ACTIVE


async def test_a_key_may_be_revoked_twice_but_only_by_its_owner(replica: Replica):
    """Another customer's key is not found."""
    owner, other = await replica.new_customer(), await replica.new_customer()
    made = await replica.new_key(customer_id=owner.id)
    stranger = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id, customer_id=other.id)
    assert await refused(replica.call("RevokeKey", stranger, pb.RevokeKeyResponse)) is Code.NOT_FOUND
    request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id, customer_id=owner.id)
    once = await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    twice = await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    assert once.key.revoked_at_us == twice.key.revoked_at_us > 0


async def test_pages_have_every_key_once_newest_first(replica: Replica):
    """By id, so that a page never moves under a reader."""
    customer = await replica.new_customer()
    made = [(await replica.new_key(customer_id=customer.id)).key.id for _ in range(5)]
    seen: list[str] = []
    after, more = "", True
    while more:
        request = pb.ListKeysRequest(customer_id=customer.id, limit=2, after=after)
        page = await replica.call("ListKeys", request, pb.ListKeysResponse)
        seen += [key.id for key in page.keys]
        after, more = page.keys[-1].id, page.has_more
    assert seen == sorted(made, reverse=True)


@pytest.mark.parametrize(
    ("method", "request_", "kind", "code"),
    [
        ("CreateCustomer", pb.CreateCustomerRequest(name="n"), pb.CreateCustomerResponse, Code.INVALID_REQUEST),
        (
            "CreateCustomer",
            pb.CreateCustomerRequest(request_id="x1"),
            pb.CreateCustomerResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateCustomer",
            pb.CreateCustomerRequest(request_id="x2", name="n", plan="none"),
            pb.CreateCustomerResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x3", customer_id=str(uuid.uuid4())),
            pb.CreateKeyResponse,
            Code.NOT_FOUND,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x4", customer_id="me"),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x5", allowed_ips=["nowhere"]),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(request_id="x6", limits=pb.Limits(concurrent=-1)),
            pb.CreateKeyResponse,
            Code.INVALID_REQUEST,
        ),
        ("ListKeys", pb.ListKeysRequest(limit=201), pb.ListKeysResponse, Code.INVALID_REQUEST),
    ],
)
async def test_what_can_not_be_is_refused_with_its_code(replica: Replica, method: str, request_, kind, code: Code):
    """Never as an internal error."""
    assert await refused(replica.call(method, request_, kind)) is code


async def test_each_method_has_its_callers(replica: Replica):
    """tasks lets requests in but makes no keys; billing has no business here."""
    create = pb.CreateKeyRequest(request_id="y")
    assert await refused(replica.call("CreateKey", create, pb.CreateKeyResponse, caller="tasks")) is (
        Code.PERMISSION_DENIED
    )
    ask = pb.AuthorizeRequest(api_key="x")
    for caller, code in (("billing", Code.PERMISSION_DENIED), ("tasks", Code.INVALID_API_KEY)):
        assert await refused(replica.call("Authorize", ask, pb.AuthorizeResponse, caller=caller)) is code


async def test_a_wished_customer_stays_as_it_was_first_made(replica: Replica):
    """The same request id with another name or plan is no conflict: the wished id is what counts."""
    wished = str(uuid.uuid4())
    first = await replica.new_customer(request_id="w" + wished, customer_id=wished, name="first")
    again = await replica.new_customer(request_id="w" + wished, customer_id=wished, name="again")
    assert first == again


async def test_a_replica_shows_its_numbers(replica: Replica):
    """Asked and looked up, so that the share of kept answers can be read."""
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    for _ in range(3):
        await replica.authorize(made.secret)
    samples = {s.name: s.value for metric in replica.parts.collector().collect() for s in metric.samples}
    assert samples["tollbridge_auth_keys_asked_total"] > samples["tollbridge_auth_look_ups_total"] > 0
    assert samples["tollbridge_config_refused"] == 0


async def test_a_revoked_key_is_refused_by_both_replicas_within_a_second_without_nats(replica: Replica, database: str):
    """Also when every answer is used for as long as it says it may be."""
    async with running(database) as other:
        customer = await replica.new_customer()
        made = await replica.new_key(customer_id=customer.id)
        for _ in range(3):
            await asyncio.gather(replica.authorize(made.secret), other.authorize(made.secret))
        watchers = [asyncio.create_task(last_use(one, made.secret, give_up_s=5.0)) for one in (replica, other)]
        await asyncio.gather(*(other.authorize(made.secret) for _ in range(3)))
        request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id)
        await other.call("RevokeKey", request, pb.RevokeKeyResponse)
        revoked_at_s = time.monotonic()
        for until_s in await asyncio.gather(*watchers):
            assert until_s - revoked_at_s < 1.0


async def test_changes_leave_by_the_outbox_once(replica: Replica):
    """In the transaction of the change; one replica publishes, the other finds nothing."""
    sent: list[bytes] = []

    async def announce(data: bytes) -> None:
        sent.append(data)

    outbox = ChangeOutbox(pool=replica.pool, announce=announce, changed=asyncio.Event(), log=structlog.get_logger())
    while await outbox.publish():
        pass
    sent.clear()
    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id)
    await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    published = await asyncio.gather(outbox.publish(), outbox.publish())
    assert sorted(published) == [0, 1]
    events = pb.KeyChangedBatch.FromString(sent[0]).events
    assert [(event.key_id, event.customer_id) for event in events] == [(made.key.id, customer.id)]


async def test_a_bus_that_is_away_loses_no_change(replica: Replica):
    """It stays in the outbox."""

    async def away(_: bytes) -> None:
        raise TollbridgeError(Code.UNAVAILABLE, "no bus")

    customer = await replica.new_customer()
    made = await replica.new_key(customer_id=customer.id)
    request = pb.RevokeKeyRequest(request_id="r", key_id=made.key.id)
    await replica.call("RevokeKey", request, pb.RevokeKeyResponse)
    log = structlog.get_logger()
    outbox = ChangeOutbox(pool=replica.pool, announce=away, changed=asyncio.Event(), log=log)
    assert await refused(outbox.publish()) is Code.UNAVAILABLE
    sent: list[bytes] = []

    async def announce(data: bytes) -> None:
        sent.append(data)

    again = ChangeOutbox(pool=replica.pool, announce=announce, changed=asyncio.Event(), log=log)
    assert await again.publish() == 1


async def until_refused(replica: Replica, secret: str) -> Code:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            await replica.authorize(secret)
        except TollbridgeError as error:
            return error.code
        await asyncio.sleep(0.02)
    raise AssertionError("it was never refused")


async def last_use(replica: Replica, secret: str, *, give_up_s: float) -> float:
    """Asks like edge does, keeping each answer for as long as it allows; the instant of the last permitted use."""
    started_s = time.monotonic()
    usable_until_s = started_s
    while time.monotonic() < started_s + give_up_s:
        asked_s = time.monotonic()
        try:
            answer = await replica.authorize(secret)
        except TollbridgeError:
            return usable_until_s
        usable_until_s = max(usable_until_s, asked_s + answer.keep_ms / 1000)
        await asyncio.sleep(0.01)
    raise AssertionError("it was never refused")
