"""The server side of gRPC: one handler behind a unary method and behind the Pipe; rights, deadlines, closed codes.

Both ways carry bytes to `_Method`, the one place that decodes, checks who calls, times, traces and counts. A caller
shows `authorization: <name>:<secret>` (`chassis.callers`); health and reflection need none. A Pipe's calls are tasks
owned by its stream: they are cancelled when the client says so or the stream goes.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from chassis.callers import Callers
from chassis.errors import Code, TollbridgeError
from chassis.reflection import reflection
from chassis.status import STATUS, STATUS_KEY, failure_of, status_of
from chassis.telemetry import Tracer
from chassis.tls import Certificates, names
from tollbridge.pipe.v1 import pipe_pb2

DEFAULT_TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 21 << 20
"""A request body of 20 MiB, the largest that edge takes, and what travels with it."""
BATCH_BYTES = 1 << 20
"""A frame of a Pipe is closed when it has grown to this."""
MAX_CALLS_PER_STREAM = 8192
END_LIMIT_S = 5.0
HANDOVER_S, HANDOVER_POLL_S = 5.0, 0.05
"""How long one that leaves answers after it has ceased to listen: its clients leave it when they have another one."""
LIMITS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES + 2 * BATCH_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + 2 * BATCH_BYTES),
]
"""Room for one message of the largest size and for the frame around it."""
_SERVER_OPTIONS = [
    *LIMITS,
    ("grpc.keepalive_time_ms", 10_000),  # finds clients whose machine is gone
    ("grpc.keepalive_timeout_ms", 5_000),
]
_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class CallContext:
    """Who calls, how long they wait (seconds), and the trace to go on with."""

    caller: str
    timeout_s: float
    traceparent: str


@dataclass(frozen=True, slots=True)
class Handler:
    """A method with one answer; `callers` are the names that may call it. It must be safe to run twice by its ids."""

    run: Callable[[Any, CallContext], Awaitable[Message]]
    callers: frozenset[str]


@dataclass(frozen=True, slots=True)
class StreamHandler:
    """A method that answers with a stream; not reachable through the Pipe."""

    run: Callable[[Any, CallContext], AsyncIterator[Message]]
    callers: frozenset[str]


@dataclass(frozen=True, slots=True)
class RpcService:
    """A service of the protos and its handlers by short method name; what has no handler is unimplemented."""

    descriptor: ServiceDescriptor
    handlers: Mapping[str, Handler | StreamHandler]


class RpcServer:
    """Serves the services, their Pipes, health and reflection on one port; with `tls` to the certified alone."""

    def __init__(
        self,
        *,
        services: Sequence[RpcService],
        bind: str,
        tokens: Mapping[str, str],
        tracer: Tracer,
        registry: CollectorRegistry,
        reuse_port: bool = False,
        tls: Certificates | None = None,
    ) -> None:
        self._bind, self._tls = bind, tls
        self._callers = Callers(tokens)
        self._reuse = ("grpc.so_reuseport", int(reuse_port))  # 0: a taken port is an error
        calls = Counter("tollbridge_rpc_calls", "Calls answered.", ["method", "code"], registry=registry)
        seconds = Histogram(
            "tollbridge_rpc_seconds", "Time to answer.", ["method"], registry=registry, buckets=_BUCKETS
        )
        self._methods = {
            service.descriptor.full_name: {
                name: _Method(service.descriptor.methods_by_name[name], handler, tracer, calls, seconds)
                for name, handler in service.handlers.items()
            }
            for service in services
        }
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._pipes: set[_Pipe] = set()
        self._draining = self._stopping = False

    async def start(self) -> str:
        """Listens; returns the bound "host:port". Raises RuntimeError when the address is taken."""
        server = self._server = grpc.aio.server(options=[*_SERVER_OPTIONS, self._reuse])
        for name, methods in self._methods.items():
            handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
                short: self._handler(method) for short, method in methods.items()
            }
            handlers["Pipe"] = grpc.stream_stream_rpc_method_handler(self._pipe_behaviour(methods))
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers([reflection([*self._methods, health.SERVICE_NAME])])
        if self._tls is None:
            port = server.add_insecure_port(self._bind)
        else:
            port = server.add_secure_port(self._bind, self._tls.for_server())
        await server.start()
        return f"{self._bind.rpartition(':')[0]}:{port}"

    async def drain(self) -> None:
        """Tells health checks and Pipe clients to go elsewhere; whatever still comes is answered."""
        self._draining = True
        await self._health.enter_graceful_shutdown()
        for pipe in self._pipes:
            pipe.drain()

    async def leave(self, announce_s: float, grace_s: float) -> None:
        """One among others leaves: it says so, after `announce_s` it ceases to listen, and then to answer."""
        await self.drain()
        await asyncio.sleep(announce_s)
        if announce_s and self._server is not None:
            await asyncio.gather(self._server.stop(HANDOVER_S + grace_s), self._hand_over(grace_s))
        else:
            await self.stop(grace_s)

    async def _hand_over(self, grace_s: float) -> None:
        until_s = time.monotonic() + HANDOVER_S
        while self._pipes and time.monotonic() < until_s:  # noqa: ASYNC110  pipes come and go for reasons of their own
            await asyncio.sleep(HANDOVER_POLL_S)
        await self.stop(grace_s)

    async def stop(self, grace_s: float) -> None:
        """Drains, takes nothing new, lets what runs end within `grace_s`, then cancels it."""
        await self.drain()
        self._stopping = True
        for pipe in self._pipes:
            pipe.close()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _handler(self, method: "_Method") -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def unary(request: bytes, context: _Context) -> bytes:
            try:
                return await method.answer(request, *self._introduced(context))
            except TollbridgeError as error:
                await _abort(context, error)

        async def stream(request: bytes, context: _Context) -> AsyncIterator[bytes]:
            try:
                async for message in method.stream(request, *self._introduced(context)):
                    yield message
            except TollbridgeError as error:
                await _abort(context, error)

        if isinstance(method.handler, StreamHandler):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _introduced(self, context: _Context) -> tuple[str, float, str]:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        left: float | None = context.time_remaining()
        timeout_s = DEFAULT_TIMEOUT_S if left is None or left > 1e6 else left
        certified = names(context.auth_context()) if self._tls else None
        return self._callers.name(metadata, certified), timeout_s, metadata.get("traceparent", "")

    def _pipe_behaviour(self, methods: "Mapping[str, _Method]") -> Callable[..., Awaitable[None]]:
        async def serve(_requests: object, context: _Context) -> None:
            try:
                caller, _, _ = self._introduced(context)
            except TollbridgeError as error:
                await _abort(context, error)
            pipe = _Pipe(methods, caller, context, draining=self._draining)
            if self._stopping:
                pipe.close()
            self._pipes.add(pipe)
            try:
                await pipe.run()
            finally:
                self._pipes.discard(pipe)

        return serve


async def _abort(context: _Context, error: TollbridgeError) -> NoReturn:
    trailer = ((STATUS_KEY, status_of(error).SerializeToString()),)
    await context.abort(STATUS[error.code], error.message[:1024], trailer)


class _Method:
    """One method of one service, whichever way its calls come."""

    def __init__(
        self,
        descriptor: MethodDescriptor,
        handler: Handler | StreamHandler,
        tracer: Tracer,
        calls: Counter,
        seconds: Histogram,
    ) -> None:
        if descriptor.server_streaming is not isinstance(handler, StreamHandler):
            raise TypeError(f"{descriptor.full_name} has the wrong kind of handler")
        service = descriptor.containing_service
        self.name = f"{service.name}/{descriptor.name}"
        self.handler, self._callers = handler, handler.callers
        self._run: Callable[[Any, CallContext], Any] = handler.run  # which of the two kinds was checked above
        self._decode = GetMessageClass(descriptor.input_type).FromString
        self._tracer, self._calls, self._seconds = tracer, calls, seconds.labels(self.name)
        self._well = calls.labels(self.name, "ok")
        self._log = structlog.get_logger()

    async def answer(self, payload: bytes, caller: str, timeout_s: float, traceparent: str) -> bytes:
        """Runs a Handler; raises TollbridgeError and, when nobody waits any more, CancelledError."""
        started, code = time.perf_counter(), "cancelled"
        try:
            async with asyncio.timeout(timeout_s) as limit:
                with self._tracer.span(self.name, parent=traceparent, kind="server") as span:
                    context = CallContext(caller, timeout_s, span.traceparent or traceparent)
                    encoded = self._encoded(await self._run(self._admitted(payload, caller), context))
            code = ""
        except Exception as error:  # the seam where any failure becomes one of the closed codes
            failure = self._failure(error, limit.expired())
            code = failure.code.value
            raise failure from error
        else:
            return encoded
        finally:
            self._count(code, started)

    async def stream(self, payload: bytes, caller: str, timeout_s: float, traceparent: str) -> AsyncIterator[bytes]:
        """Runs a StreamHandler; the deadline is for the whole stream. Raises as `answer` does."""
        started, code = time.perf_counter(), "cancelled"
        try:
            async with asyncio.timeout(timeout_s) as limit:
                with self._tracer.span(self.name, parent=traceparent, kind="server") as span:
                    context = CallContext(caller, timeout_s, span.traceparent or traceparent)
                    async for message in self._run(self._admitted(payload, caller), context):
                        yield self._encoded(message)
            code = ""
        except Exception as error:
            failure = self._failure(error, limit.expired())
            code = failure.code.value
            raise failure from error
        finally:
            self._count(code, started)

    def _admitted(self, payload: bytes, caller: str) -> Message:
        if caller not in self._callers:
            raise TollbridgeError(Code.PERMISSION_DENIED, f"{caller} may not call {self.name}")
        try:
            return self._decode(payload)
        except DecodeError:
            raise TollbridgeError(Code.INVALID_REQUEST, f"not a request of {self.name}") from None

    def _encoded(self, message: Message) -> bytes:
        encoded = message.SerializeToString()
        if len(encoded) > MAX_MESSAGE_BYTES:
            raise ValueError(f"an answer of {self.name} is larger than {MAX_MESSAGE_BYTES} bytes")
        return encoded

    def _count(self, code: str, started: float) -> None:
        (self._calls.labels(self.name, code) if code else self._well).inc()
        self._seconds.observe(time.perf_counter() - started)

    def _failure(self, error: Exception, expired: bool) -> TollbridgeError:
        if isinstance(error, TollbridgeError):
            return error
        if isinstance(error, TimeoutError) and expired:
            return TollbridgeError(Code.DEADLINE_EXCEEDED, f"{self.name} took too long", retry_after_s=1)
        self._log.error("call_failed", method=self.name, exc_info=error)
        return TollbridgeError(Code.INTERNAL, "internal error")


class _Pipe:
    """One client's stream: owns the tasks of its calls. A frame comes at once, which says that the caller is let in,
    and for each empty frame, which asks whether we still live."""

    def __init__(self, methods: Mapping[str, _Method], caller: str, context: _Context, *, draining: bool) -> None:
        self._methods, self._caller, self._context = methods, caller, context
        self._running: dict[int, asyncio.Task[None]] = {}
        self._replies: deque[tuple[int, bytes, TollbridgeError | None]] = deque()
        self._wake = asyncio.Event()
        self._draining, self._closing, self._missed = draining, False, False
        self._speak = True  # a frame is due even without replies

    async def run(self) -> None:
        """Serves until the client goes or `close` is through; then cancels what still runs."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks += self._running.values()
            for task in tasks:
                task.cancel()
            ended, _ = await asyncio.wait(tasks, timeout=END_LIMIT_S)
            for task in ended:
                if not task.cancelled():
                    task.exception()  # a broken stream is the client's to notice; this marks it as seen

    def drain(self) -> None:
        """Tells the client to take new calls elsewhere."""
        self._draining = self._speak = True
        self._wake.set()

    def close(self) -> None:
        """Ends the stream when the running calls are answered, or when one more comes."""
        self._closing = True
        self._wake.set()

    async def _read(self) -> None:
        while isinstance(frame := await self._context.read(), bytes):
            if not frame:
                self._speak = True
                self._wake.set()
            batch = pipe_pb2.CallBatch.FromString(frame)
            for call_id in batch.cancelled:
                if task := self._running.get(call_id):
                    task.cancel()
            for call in batch.calls:
                self._begin(call)

    def _begin(self, call: pipe_pb2.Call) -> None:
        if self._closing:  # its client knows nobody else: at the end of this stream it asks our successor, for all
            self._missed = True
            self._wake.set()
            return
        method = self._methods.get(call.method)
        if method is None or isinstance(method.handler, StreamHandler):
            self._reply(call.id, b"", TollbridgeError(Code.METHOD_NOT_ALLOWED, "no such method"))
        elif len(self._running) >= MAX_CALLS_PER_STREAM:
            self._reply(call.id, b"", TollbridgeError(Code.OVERLOADED, "too many calls at once", retry_after_s=1))
        else:
            self._running[call.id] = asyncio.create_task(self._serve(method, call))

    async def _serve(self, method: _Method, call: pipe_pb2.Call) -> None:
        timeout_s = call.timeout_ms / 1000 or DEFAULT_TIMEOUT_S
        try:
            payload = await method.answer(call.payload, self._caller, timeout_s, call.traceparent)
            self._reply(call.id, payload, None)
        except TollbridgeError as error:
            self._reply(call.id, b"", error)
        finally:
            self._running.pop(call.id, None)
            if self._closing:
                self._wake.set()

    def _reply(self, call_id: int, payload: bytes, error: TollbridgeError | None) -> None:
        self._replies.append((call_id, payload, error))
        self._wake.set()

    async def _write(self) -> None:
        """All replies of one turn of the loop leave in one frame."""
        while True:
            while self._replies or self._speak:
                self._speak = False
                await self._context.write(self._frame())
            if self._closing and (self._missed or not self._running):
                return
            await self._wake.wait()
            self._wake.clear()

    def _frame(self) -> bytes:
        frame, size = pipe_pb2.ReplyBatch(draining=self._draining), 0
        while self._replies and size < BATCH_BYTES:
            call_id, payload, error = self._replies.popleft()
            if error is None:
                frame.replies.add(id=call_id, payload=payload)
                size += len(payload)
            else:
                frame.replies.add(id=call_id, failure=failure_of(error))
        return frame.SerializeToString()
