"""What tests of the Pipe share: a server and a client on loopback, a question, and handlers that wait."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from chassis.errors import TollbridgeError
from chassis.pipe import PipeClient
from chassis.rpc import CallContext, Handler, RpcServer, RpcService
from chassis.telemetry import Tracer
from tollbridge.auth.v1 import auth_pb2

AUTH = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
Run = Callable[[Any, CallContext], Any]


def off() -> Tracer:
    return Tracer(service="test", replica="0", otlp_endpoint="")


def server(
    run: Run,
    *,
    bind: str = "127.0.0.1:0",
    callers: frozenset[str] = frozenset({"edge"}),
    reuse_port: bool = False,
) -> RpcServer:
    return RpcServer(
        services=[RpcService(AUTH, {"GetCustomer": Handler(run, callers)})],
        bind=bind,
        tokens={"edge": "s3cret", "cli": "other"},
        tracer=off(),
        registry=CollectorRegistry(),
        reuse_port=reuse_port,
    )


async def client(*addresses: str, token: str = "edge:s3cret", max_in_flight: int = 4096) -> PipeClient:
    made = PipeClient(
        descriptor=AUTH, addresses=",".join(addresses), token=token, tracer=off(), max_in_flight=max_in_flight
    )
    await made.start()
    return made


async def ask(
    pipe: PipeClient, customer_id: str = "c", *, key: str = "", timeout_s: float = 10, traceparent: str = ""
) -> auth_pb2.Customer:
    request = auth_pb2.GetCustomerRequest(customer_id=customer_id)
    answer = await pipe.call(
        "GetCustomer",
        request,
        auth_pb2.GetCustomerResponse,
        key=key,
        timeout_s=timeout_s,
        traceparent=traceparent,
    )
    return answer.customer


async def refused(pipe: PipeClient, **options: Any) -> TollbridgeError:
    with pytest.raises(TollbridgeError) as caught:
        await ask(pipe, **options)
    return caught.value


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  a test polls with a deadline
            await asyncio.sleep(0.005)


def named(name: str, served: list[str] | None = None) -> Run:
    async def run(request: auth_pb2.GetCustomerRequest, context: CallContext) -> Message:
        if served is not None:
            served.append(request.customer_id)
        customer = auth_pb2.Customer(id=request.customer_id, name=name, email=context.traceparent, plan=context.caller)
        return auth_pb2.GetCustomerResponse(customer=customer)

    return run


class Gate:
    """A handler that answers only when it is opened, and tells what happened to it."""

    def __init__(self, name: str) -> None:
        self.name, self.entered, self.cancelled = name, 0, 0
        self.open = asyncio.Event()

    async def run(self, request: auth_pb2.GetCustomerRequest, _context: CallContext) -> Message:
        self.entered += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return auth_pb2.GetCustomerResponse(customer=auth_pb2.Customer(id=request.customer_id, name=self.name))
