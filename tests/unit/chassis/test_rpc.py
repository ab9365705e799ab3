"""Calls over real gRPC on loopback: rights, deadlines, errors, streams, health, reflection, metrics."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from chassis.callers import parse_tokens
from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from chassis.rpc import CallContext, Handler, RpcServer, RpcService, StreamHandler
from chassis.settings import SettingsError
from chassis.status import STATUS, STATUS_KEY, error_of, error_of_failure, failure_of, status_of
from chassis.telemetry import Tracer
from tollbridge.auth.v1 import auth_pb2, auth_pb2_grpc
from tollbridge.tasks.v1 import tasks_pb2

AUTH = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
TASKS = tasks_pb2.DESCRIPTOR.services_by_name["TasksService"]
EDGE = (("authorization", "edge:s3cret"),)
TOKENS = {"edge": "s3cret", "cli": "other"}


def off() -> Tracer:
    return Tracer(service="test", replica="0", otlp_endpoint="")


def server(
    handlers: dict[str, Callable[[Any, CallContext], Any]],
    *,
    callers: frozenset[str] = frozenset({"edge"}),
    registry: CollectorRegistry | None = None,
) -> RpcServer:
    service = RpcService(AUTH, {name: Handler(run, callers) for name, run in handlers.items()})
    return RpcServer(
        services=[service],
        bind="127.0.0.1:0",
        tokens=TOKENS,
        tracer=off(),
        registry=registry or CollectorRegistry(),
    )


async def echo(request: auth_pb2.GetCustomerRequest, context: CallContext) -> Message:
    customer = auth_pb2.Customer(id=request.customer_id, name=context.caller, email=context.traceparent)
    return auth_pb2.GetCustomerResponse(customer=customer)


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_every_code_has_a_status() -> None:
    """A code that gRPC can't carry would reach the caller as an internal error."""
    assert set(STATUS) == set(Code)


@pytest.mark.parametrize("code", list(Code))
def test_an_error_survives_both_ways(code: Code) -> None:
    """Code, message, details and retry time are the same after a status and after a pipe's frame."""
    error = TollbridgeError(code, "why", details={"param": "model"}, retry_after_s=1.5)
    status = status_of(error)
    trailer = grpc.aio.Metadata((STATUS_KEY, status.SerializeToString()))
    for decoded in (
        error_of(grpc.aio.AioRpcError(STATUS[code], trailing_metadata=trailer, details="why")),
        error_of_failure(failure_of(error)),
    ):
        assert (decoded.code, decoded.message) == (code, "why")
        assert (decoded.details, decoded.retry_after_s) == ({"param": "model"}, 1.5)


async def test_a_unary_call_reaches_its_handler() -> None:
    """The handler sees who called, how long they wait and their trace."""
    running = server({"GetCustomer": echo})
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        answer = await stub.GetCustomer(
            auth_pb2.GetCustomerRequest(customer_id="c1"), metadata=(*EDGE, ("traceparent", trace)), timeout=5
        )
    await running.stop(1)
    assert (answer.customer.id, answer.customer.name, answer.customer.email) == ("c1", "edge", trace)


async def test_errors_cross_a_unary_call_as_google_rpc_status() -> None:
    """Teams without our client find ErrorInfo and RetryInfo where gRPC puts them."""

    async def refuse(_request: Any, _context: CallContext) -> Message:
        raise TollbridgeError(Code.INSUFFICIENT_CREDITS, "no money", details={"need": "3"}, retry_after_s=2)

    running = server({"GetCustomer": refuse})
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        error = await failed(stub.GetCustomer(auth_pb2.GetCustomerRequest(), metadata=EDGE, timeout=30))
    await running.stop(1)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[STATUS_KEY])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.domain, info.reason, dict(info.metadata)) == ("tollbridge", "insufficient_credits", {"need": "3"})
    assert retry.retry_delay.seconds == 2


@pytest.mark.parametrize("metadata", [(), (("authorization", "edge:wrong"),), (("authorization", "eve:s3cret"),)])
async def test_a_caller_without_the_right_token_is_refused(metadata: Any) -> None:
    """No token, a wrong secret and an unknown name are all the same refusal."""
    running = server({"GetCustomer": echo})
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        error = await failed(stub.GetCustomer(auth_pb2.GetCustomerRequest(), metadata=metadata, timeout=30))
    await running.stop(1)
    assert error_of(error).code is Code.PERMISSION_DENIED


async def test_a_known_caller_may_call_only_what_lists_it() -> None:
    """Each method says who may call it."""
    running = server({"GetCustomer": echo}, callers=frozenset({"cli"}))
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        error = await failed(stub.GetCustomer(auth_pb2.GetCustomerRequest(), metadata=EDGE, timeout=30))
        request = auth_pb2.GetCustomerRequest(customer_id="c1")
        allowed = await stub.GetCustomer(request, metadata=(("authorization", "Bearer cli:other"),), timeout=30)
    await running.stop(1)
    assert error_of(error).code is Code.PERMISSION_DENIED
    assert allowed.customer.id == "c1"


async def test_a_deadline_ends_the_handler() -> None:
    """The handler of a call that nobody waits for is cancelled, and the caller learns why."""
    ended = asyncio.Event()

    async def slow(_request: Any, _context: CallContext) -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    running = server({"GetCustomer": slow})
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        error = await failed(stub.GetCustomer(auth_pb2.GetCustomerRequest(), metadata=EDGE, timeout=0.1))
        await asyncio.wait_for(ended.wait(), 5)
    await running.stop(1)
    assert error_of(error).code is Code.DEADLINE_EXCEEDED


async def test_a_call_without_a_deadline_gets_thirty_seconds() -> None:
    """Nothing runs without a bound."""
    seen: list[float] = []

    async def look(_request: Any, context: CallContext) -> Message:
        seen.append(context.timeout_s)
        return auth_pb2.GetCustomerResponse()

    running = server({"GetCustomer": look})
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        await stub.GetCustomer(auth_pb2.GetCustomerRequest(), metadata=EDGE)
    await running.stop(1)
    assert seen == [30.0]


async def test_unknown_exceptions_become_internal_without_their_text() -> None:
    """What a bug says may hold a secret: it is logged, not sent."""

    async def broken(_request: Any, _context: CallContext) -> Message:
        raise RuntimeError("secret detail")

    running = server({"GetCustomer": broken})
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        error = await failed(stub.GetCustomer(auth_pb2.GetCustomerRequest(), metadata=EDGE, timeout=30))
    await running.stop(1)
    assert error_of(error).code is Code.INTERNAL
    assert "secret" not in str(error)


async def test_health_and_reflection_need_no_token_and_tell_of_draining() -> None:
    """A kubelet and grpcurl come without a token."""
    running = server({"GetCustomer": echo})
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=AUTH.full_name)
        before = (await stub.Check(request, timeout=30)).status
        listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=30)
        await listing.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        services = (await listing.read()).list_services_response.service
        listing.cancel()
        await running.drain()
        after = (await stub.Check(request, timeout=30)).status
    await running.stop(1)
    assert before == health_pb2.HealthCheckResponse.SERVING
    assert AUTH.full_name in {service.name for service in services}
    assert after == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_calls_are_counted_by_method_and_code() -> None:
    """Both labels come from closed lists, so a caller can't grow the number of series."""
    registry = CollectorRegistry()

    async def odd(request: auth_pb2.GetCustomerRequest, context: CallContext) -> Message:
        if request.customer_id == "none":
            raise TollbridgeError(Code.NOT_FOUND, "no such customer")
        return await echo(request, context)

    running = server({"GetCustomer": odd}, registry=registry)
    async with grpc.aio.insecure_channel(await running.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        await stub.GetCustomer(auth_pb2.GetCustomerRequest(customer_id="c"), metadata=EDGE, timeout=30)
        await failed(stub.GetCustomer(auth_pb2.GetCustomerRequest(customer_id="none"), metadata=EDGE, timeout=30))
    await running.stop(1)
    for code in ("ok", "not_found"):
        labels = {"method": "AuthService/GetCustomer", "code": code}
        assert registry.get_sample_value("tollbridge_rpc_calls_total", labels) == 1


async def test_a_stream_carries_messages_and_then_its_error() -> None:
    """Server streams keep the closed codes too."""

    async def pieces(_request: Any, _context: CallContext) -> AsyncIterator[Message]:
        yield tasks_pb2.GetResultResponse()
        yield tasks_pb2.GetResultResponse()
        raise TollbridgeError(Code.NOT_FOUND, "the rest is gone")

    service = RpcService(TASKS, {"GetResult": StreamHandler(pieces, frozenset({"edge"}))})
    running = RpcServer(
        services=[service], bind="127.0.0.1:0", tokens=TOKENS, tracer=off(), registry=CollectorRegistry()
    )
    client = PipeClient(descriptor=TASKS, addresses=await running.start(), token="edge:s3cret", tracer=off())
    await client.start()
    pieces_of = client.stream("GetResult", tasks_pb2.GetResultRequest(), tasks_pb2.GetResultResponse, timeout_s=5)
    got = [await anext(pieces_of), await anext(pieces_of)]
    with pytest.raises(TollbridgeError) as caught:
        await anext(pieces_of)
    await client.close()
    await running.stop(1)
    assert len(got) == 2
    assert caught.value.code is Code.NOT_FOUND


def test_tokens_are_read_and_never_shown() -> None:
    """A malformed list is an error that doesn't hold the secret."""
    assert parse_tokens("edge:a, cli:b:c,") == {"edge": "a", "cli": "b:c"}
    assert parse_tokens("") == {}
    with pytest.raises(SettingsError) as caught:
        parse_tokens("edge:a,justsecret")
    assert "justsecret" not in str(caught.value)


def test_a_service_really_runs_on_uvloop(tmp_path: Path) -> None:
    """gRPC's asyncio server answers on the loop that `lifecycle.run` makes, which is uvloop's."""
    script = tmp_path / "service.py"
    script.write_text(
        """
import asyncio
import grpc
from prometheus_client import CollectorRegistry
from chassis import lifecycle
from chassis.rpc import Handler, RpcServer, RpcService
from chassis.telemetry import Tracer
from tollbridge.auth.v1 import auth_pb2, auth_pb2_grpc

async def loop_name(request, context):
    return auth_pb2.GetCustomerResponse(customer={"id": type(asyncio.get_running_loop()).__module__})

async def main(life):
    service = RpcService(auth_pb2.DESCRIPTOR.services_by_name["AuthService"],
                         {"GetCustomer": Handler(loop_name, frozenset({"edge"}))})
    server = RpcServer(services=[service], bind="127.0.0.1:0", tokens={"edge": "s"},
                       tracer=Tracer(service="t", replica="0", otlp_endpoint=""), registry=CollectorRegistry())
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        request = auth_pb2.GetCustomerRequest()
        answer = await stub.GetCustomer(request, metadata=(("authorization", "edge:s"),), timeout=10)
        print(answer.customer.id)
    await server.stop(1)

lifecycle.run(main)
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "uvloop"), done.stderr
