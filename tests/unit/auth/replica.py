"""One auth replica on a real PostgreSQL, served over real gRPC to whoever shows a token."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import grpc
import pytest
import structlog
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.rpc import RpcServer
from chassis.status import error_of
from chassis.telemetry import Tracer
from services.auth.changes import ChangePoll
from services.auth.parts import Parts
from services.auth.settings import Settings
from tollbridge.auth.v1 import auth_pb2 as pb

PEPPERS = "1:" + "5a" * 32
TOKENS = {"edge": "e", "cli": "c", "tasks": "t", "billing": "b", "teams": "o", "stranger": "s"}
DEFAULT_CUSTOMER = str(uuid.uuid4())


class Replica:
    """One auth replica with its poll, reached over gRPC."""

    def __init__(self, parts: Parts, address: str, pool: db.Pool) -> None:
        self.parts = parts
        self.address = address
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


async def refused(call: Awaitable[object]) -> Code:
    """The code that a call is refused with; fails when it is not."""
    with pytest.raises(TollbridgeError) as caught:
        await call
    return caught.value.code
