"""The Pipe over real gRPC on loopback: coalescing, failover, draining, cancellation, bounds."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from chassis.errors import Code, TollbridgeError
from chassis.pipe import PipeClient
from chassis.rpc import CallContext, Handler, RpcServer, RpcService
from chassis.settings import SettingsError
from chassis.telemetry import Tracer
from tollbridge.auth.v1 import auth_pb2

AUTH = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
Run = Callable[[Any, CallContext], Any]


def off() -> Tracer:
    return Tracer(service="test", replica="0", otlp_endpoint="")


def server(run: Run, *, bind: str = "127.0.0.1:0", callers: frozenset[str] = frozenset({"edge"})) -> RpcServer:
    return RpcServer(
        services=[RpcService(AUTH, {"GetCustomer": Handler(run, callers)})],
        bind=bind,
        tokens={"edge": "s3cret", "cli": "other"},
        tracer=off(),
        registry=CollectorRegistry(),
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
    async with asyncio.timeout(10):
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


async def test_two_thousand_concurrent_calls_share_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a loop turn leave in one frame and every caller gets its own answer."""
    running = server(named("a"))
    pipe = await client(await running.start())
    await ask(pipe)
    frames = 0
    receive = pipe._replicas.copy().popitem()[1]._receive

    def counting(frame: Any) -> None:
        nonlocal frames
        frames += 1
        receive(frame)

    monkeypatch.setattr(pipe._replicas.copy().popitem()[1], "_receive", counting, raising=False)
    answers = await asyncio.gather(*(ask(pipe, str(n)) for n in range(2000)))
    await pipe.close()
    await running.stop(1)
    assert [answer.id for answer in answers] == [str(n) for n in range(2000)]
    assert frames < 400


async def test_the_callers_name_and_trace_reach_the_handler() -> None:
    """A handler can't tell a pipe from a unary call."""
    running = server(named("a"))
    pipe = await client(await running.start())
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await ask(pipe, traceparent=trace)
    await pipe.close()
    await running.stop(1)
    assert (answer.plan, answer.email) == ("edge", trace)


async def test_errors_cross_the_pipe_intact() -> None:
    """Code, message, details and retry time arrive as they were raised."""

    async def refuse(_request: Any, _context: CallContext) -> Message:
        raise TollbridgeError(Code.BALANCE_RESERVED, "wait", details={"held": "7"}, retry_after_s=2.5)

    running = server(refuse)
    pipe = await client(await running.start())
    error = await refused(pipe)
    await pipe.close()
    await running.stop(1)
    assert (error.code, error.message, error.details, error.retry_after_s) == (
        Code.BALANCE_RESERVED,
        "wait",
        {"held": "7"},
        2.5,
    )


async def test_an_unknown_exception_becomes_internal() -> None:
    """A bug in a handler ends its call, not the stream."""

    async def broken(_request: Any, _context: CallContext) -> Message:
        raise RuntimeError("secret detail")

    running = server(broken)
    pipe = await client(await running.start())
    first, second = await refused(pipe), await refused(pipe)
    await pipe.close()
    await running.stop(1)
    assert first.code is second.code is Code.INTERNAL
    assert "secret" not in first.message


async def test_a_wrong_token_never_gets_through() -> None:
    """Our own wrong secret is our outage: callers hear that the service can't be reached."""
    served: list[str] = []
    running = server(named("a", served))
    pipe = await client(await running.start(), token="edge:wrong")
    error = await refused(pipe, timeout_s=0.5)
    await pipe.close()
    await running.stop(1)
    assert (error.code, error.retry_after_s, served) == (Code.UNAVAILABLE, 1, [])


async def test_rights_are_checked_for_each_method() -> None:
    """A stream that is let in may still not call what doesn't list its name."""
    running = server(named("a"), callers=frozenset({"cli"}))
    pipe = await client(await running.start())
    error = await refused(pipe)
    await pipe.close()
    await running.stop(1)
    assert error.code is Code.PERMISSION_DENIED


async def test_the_largest_messages_pass_and_larger_ones_are_refused() -> None:
    """Several large messages at once go out in frames that gRPC takes; one above 21 MiB is the caller's mistake."""
    running = server(named("a"))
    pipe = await client(await running.start())
    small, large = "x" * (1 << 19), "x" * ((21 << 20) - 100)
    answers = await asyncio.gather(*(ask(pipe, text) for text in (small, large, small, large)))
    error = await refused(pipe, customer_id="x" * (21 << 20))
    await pipe.close()
    await running.stop(1)
    assert [len(answer.id) for answer in answers] == [len(small), len(large), len(small), len(large)]
    assert error.code is Code.REQUEST_TOO_LARGE


async def test_a_method_that_is_not_there_is_refused() -> None:
    """An unknown method is an answer, not a silence."""
    running = server(named("a"))
    pipe = await client(await running.start())
    with pytest.raises(TollbridgeError) as caught:
        await pipe.call("Nothing", auth_pb2.GetCustomerRequest(), auth_pb2.GetCustomerResponse, timeout_s=5)
    await pipe.close()
    await running.stop(1)
    assert caught.value.code is Code.METHOD_NOT_ALLOWED


async def test_a_timeout_ends_the_call_on_both_sides() -> None:
    """The caller stops waiting in time, and the handler is cancelled."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    started = asyncio.get_running_loop().time()
    error = await refused(pipe, timeout_s=0.3)
    took_s = asyncio.get_running_loop().time() - started
    await eventually(lambda: gate.cancelled == 1)
    await pipe.close()
    await running.stop(1)
    assert (error.code, error.retry_after_s) == (Code.DEADLINE_EXCEEDED, 1)
    assert took_s < 2


async def test_cancelling_a_caller_cancels_its_handler() -> None:
    """Work that nobody waits for stops, and the other calls of the stream go on."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    leaving, staying = asyncio.create_task(ask(pipe, "x")), asyncio.create_task(ask(pipe, "y"))
    await eventually(lambda: gate.entered == 2)
    leaving.cancel()
    await eventually(lambda: gate.cancelled == 1)
    gate.open.set()
    assert (await staying).id == "y"
    assert leaving.cancelled()
    await pipe.close()
    await running.stop(1)


async def test_handlers_are_cancelled_when_the_client_is_gone() -> None:
    """A stream owns its calls: none outlives it."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    waiting = asyncio.create_task(refused(pipe))
    await eventually(lambda: gate.entered == 1)
    await pipe.close()
    await eventually(lambda: gate.cancelled == 1)
    assert (await waiting).code is Code.UNAVAILABLE
    await running.stop(1)


async def test_unanswered_calls_fail_over_when_their_replica_dies() -> None:
    """The death of a replica costs its callers nothing but time."""
    gates = [Gate("a"), Gate("b")]
    servers = [server(gate.run) for gate in gates]
    pipe = await client(*[await running.start() for running in servers])
    await eventually(lambda: len(pipe._choice) == 2)
    calls = [asyncio.create_task(ask(pipe, str(n))) for n in range(20)]
    await eventually(lambda: sum(gate.entered for gate in gates) == 20)
    assert gates[0].entered == 10, "the least busy replica is chosen"
    await servers[0].stop(0)
    gates[1].open.set()
    answers = await asyncio.gather(*calls)
    await pipe.close()
    await servers[1].stop(1)
    assert [answer.id for answer in answers] == [str(n) for n in range(20)]
    assert {answer.name for answer in answers} == {"b"}


async def test_a_replica_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process keeps its sockets open: only its silence tells, and its calls go elsewhere."""
    monkeypatch.setattr("chassis.pipe.PING_S", 0.05)
    monkeypatch.setattr("chassis.pipe.SILENCE_S", 0.4)
    asked: list[Any] = []

    async def hang(_requests: Any, context: Any) -> None:
        await context.write(b"")
        while True:
            asked.append(await context.read())

    hung, well = grpc.aio.server(), server(named("b"))
    handlers = {"Pipe": grpc.stream_stream_rpc_method_handler(hang)}
    hung.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(AUTH.full_name, handlers)])
    port = hung.add_insecure_port("127.0.0.1:0")
    await hung.start()
    pipe = await client(f"127.0.0.1:{port}")
    call = asyncio.create_task(ask(pipe))
    await eventually(lambda: any(asked))
    await pipe._set_targets({*pipe._replicas, await well.start()})
    assert (await call).name == "b"
    await pipe.close()
    await hung.stop(0)
    await well.stop(1)


async def test_a_call_waits_for_a_replica_that_comes_back() -> None:
    """With no replica left, calls wait for one until their own timeout."""
    first = server(named("a"))
    address = await first.start()
    pipe = await client(address)
    assert (await ask(pipe)).name == "a"
    await first.stop(0)
    waiting = asyncio.create_task(ask(pipe, timeout_s=20))
    error = await refused(pipe, timeout_s=0.2)
    second = server(named("b"), bind=address)
    await second.start()
    assert (await waiting).name == "b"
    assert (error.code, error.retry_after_s) == (Code.UNAVAILABLE, 1)
    await pipe.close()
    await second.stop(1)


async def test_draining_moves_new_calls_and_answers_running_ones() -> None:
    """A replica that is about to stop loses no call."""
    gate, served = Gate("a"), []
    draining, other = server(gate.run), server(named("b", served))
    pipe = await client(await draining.start())
    running = asyncio.create_task(ask(pipe, "old"))
    await eventually(lambda: gate.entered == 1)
    await pipe._set_targets({*pipe._replicas, await other.start()})
    await eventually(lambda: len(pipe._choice) == 2)
    await draining.drain()
    await eventually(lambda: len(pipe._choice) == 1)
    names = {(await ask(pipe, str(n), key=str(n))).name for n in range(20)}
    gate.open.set()
    assert names == {"b"}
    assert (await running).name == "a"
    await draining.stop(1)
    await pipe.close()
    await other.stop(1)


async def test_stopping_within_the_grace_answers_what_runs() -> None:
    """`stop` ends the streams only after their running calls are answered."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start())
    call = asyncio.create_task(ask(pipe))
    await eventually(lambda: gate.entered == 1)
    stopping = asyncio.create_task(running.stop(10))
    await asyncio.wait({stopping}, timeout=0.2)
    assert not stopping.done()
    gate.open.set()
    assert (await call).name == "a"
    await asyncio.wait_for(stopping, 0.5)
    await pipe.close()


async def test_a_key_stays_with_its_replica_while_it_lives() -> None:
    """Equal keys meet the same replica, and different keys share the replicas out."""
    servers = [server(named(name)) for name in "abc"]
    pipe = await client(*[await running.start() for running in servers])
    await eventually(lambda: len(pipe._choice) == 3)
    first = [(await ask(pipe, key=f"key {n}")).name for n in range(60)]
    again = [(await ask(pipe, key=f"key {n}")).name for n in range(60)]
    assert first == again
    assert min(first.count(name) for name in "abc") >= 8
    victim = first[0]
    await servers["abc".index(victim)].stop(0)
    await eventually(lambda: len(pipe._choice) == 2)
    after = [(await ask(pipe, key=f"key {n}")).name for n in range(60)]
    await pipe.close()
    for running in servers:
        await running.stop(1)
    assert all(now == before for before, now in zip(first, after, strict=True) if before != victim)


async def test_waiting_for_a_slot_counts_against_the_timeout() -> None:
    """In-flight calls are bounded, those that wait are in turn, and beyond a bound they are refused at once."""
    gate = Gate("a")
    running = server(gate.run)
    pipe = await client(await running.start(), max_in_flight=2)
    holding = [asyncio.create_task(ask(pipe, str(n))) for n in range(2)]
    await eventually(lambda: gate.entered == 2)
    late = await refused(pipe, timeout_s=0.2)
    waiting = [asyncio.create_task(ask(pipe, str(n))) for n in range(8)]
    await asyncio.sleep(0)
    overloaded = await refused(pipe)
    entered = gate.entered
    gate.open.set()
    await asyncio.gather(*holding, *waiting)
    await pipe.close()
    await running.stop(1)
    assert entered == 2
    assert (late.code, overloaded.code) == (Code.UNAVAILABLE, Code.OVERLOADED)


async def test_a_name_is_resolved_to_its_replicas() -> None:
    """One DNS name stands for all replicas behind it."""
    running = server(named("a"))
    port = (await running.start()).rpartition(":")[2]
    pipe = await client(f"localhost:{port}")
    assert (await ask(pipe)).name == "a"
    await pipe.close()
    await running.stop(1)


def test_an_address_that_is_none_is_a_wrong_setting() -> None:
    """A service that can't know whom to ask says so at its start."""
    for addresses in ("", "auth", "auth:x"):
        with pytest.raises(SettingsError):
            PipeClient(descriptor=AUTH, addresses=addresses, token="", tracer=off())
