"""The client of a Pipe: many calls on one long stream per replica, all calls of a loop turn in one frame.

A call belongs to its caller's task: whoever stops waiting (timeout, cancellation) takes it back; the server is told.
Streams belong to the client: each replica has a task that connects, reads, and connects again with a bounded back-off.
When a stream breaks, its unanswered calls go to another live replica, or wait for one, until their own timeout, so a
call must be safe to run twice (by the ids in it). After three broken streams a call is given up: it may be the cause.
An empty frame asks for one in return, each second, which finds a replica that hangs.
"""

import asyncio
import hashlib
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from chassis.addresses import is_ip, parse, resolve
from chassis.errors import Code, TollbridgeError
from chassis.rpc import BATCH_BYTES, END_LIMIT_S, LIMITS, MAX_MESSAGE_BYTES
from chassis.status import error_of, error_of_failure
from chassis.telemetry import Tracer
from tollbridge.pipe.v1 import pipe_pb2

RESOLVE_S = 5.0
CONNECT_TIMEOUT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
PING_S, SILENCE_S = 1.0, 4.0
"""A replica that has sent nothing for so long, though it is asked each second, hangs: its stream is given up."""
MAX_MOVES = 3
WAITING_PER_SLOT = 4
"""How many calls may wait for each one that is in flight, before they are refused."""
_OPTIONS = [
    *LIMITS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
]
R = TypeVar("R", bound=Message)
_Stream: TypeAlias = "grpc.aio.StreamStreamCall[Message, pipe_pb2.ReplyBatch]"


@dataclass(slots=True, eq=False)
class _Call:
    """One call, as its caller sees it: the future is done once, by a reply, a timeout or its caller's leaving."""

    id: int
    method: str
    payload: bytes
    key: str
    trace: str
    deadline: float
    future: asyncio.Future[bytes]
    replica: "_Replica | None" = None
    sent: bool = False
    admitted: bool = False
    moves: int = 0

    def fail(self, code: Code, message: str) -> None:
        if not self.future.done():
            self.future.set_exception(TollbridgeError(code, message, retry_after_s=1))


class PipeClient:
    """Calls one service on any of its replicas."""

    def __init__(
        self, *, descriptor: ServiceDescriptor, addresses: str, token: str, tracer: Tracer, max_in_flight: int = 4096
    ) -> None:
        self.service, self._name = descriptor.full_name, descriptor.name
        self._addresses = parse(addresses)
        self.metadata = (("authorization", token),)
        self._tracer = tracer
        self._max_in_flight, self._in_flight = max_in_flight, 0
        self._ids = itertools.count(1)
        self._replicas: dict[str, _Replica] = {}
        self._choice: tuple[_Replica, ...] = ()
        self._waiting: OrderedDict[int, _Call] = OrderedDict()  # for a slot
        self._homeless: dict[int, _Call] = {}  # for a live replica
        self._resolver: asyncio.Task[None] | None = None
        self._closed = False
        self._log = structlog.get_logger()

    async def start(self) -> None:
        """Begins to connect and returns: services start in any order, and calls wait for a replica."""
        if any(not is_ip(host) for host, _ in self._addresses):
            self._resolver = asyncio.create_task(self._follow_names(), name=f"resolve {self._name}")
        else:
            await self._set_targets({f"{host}:{port}" for host, port in self._addresses})

    async def close(self) -> None:
        """Ends the streams; calls still open fail with UNAVAILABLE."""
        self._closed = True
        if self._resolver is not None:
            self._resolver.cancel()
            await asyncio.gather(self._resolver, return_exceptions=True)
        await self._set_targets(set())
        for call in [*self._homeless.values(), *self._waiting.values()]:
            call.fail(Code.UNAVAILABLE, f"{self._name} is closed")

    async def call(
        self,
        method: str,
        request: Message,
        response_type: type[R],
        *,
        timeout_s: float,
        key: str = "",
        traceparent: str = "",
    ) -> R:
        """The answer, within `timeout_s`; waiting for a slot or for a replica counts.

        Raises the server's TollbridgeError; UNAVAILABLE when no replica could be asked, DEADLINE_EXCEEDED when one was
        asked and didn't answer, OVERLOADED when too many wait. Equal keys go to the same replica while it lives.
        """
        payload = request.SerializeToString()
        if len(payload) > MAX_MESSAGE_BYTES:
            raise TollbridgeError(Code.REQUEST_TOO_LARGE, f"a request of {self._name}/{method} is too large")
        with self._tracer.span(f"{self._name}/{method}", parent=traceparent, kind="client") as span:
            trace = span.traceparent or traceparent
            return response_type.FromString(await self._ask(method, payload, key, timeout_s, trace))

    async def stream(
        self, method: str, request: Message, response_type: type[R], *, timeout_s: float
    ) -> AsyncIterator[R]:
        """A server stream from any live replica, outside the pipe, without failover; errors as of `call`."""
        replica = self._chosen("") or next(iter(self._replicas.values()), None)
        if replica is None:
            raise TollbridgeError(Code.UNAVAILABLE, f"{self._name} is not reachable", retry_after_s=1)
        open_stream = replica.channel.unary_stream(
            f"/{self.service}/{method}", type(request).SerializeToString, response_type.FromString
        )
        stream = open_stream(request, timeout=timeout_s, metadata=self.metadata)
        try:
            async for message in stream:
                yield message
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        except asyncio.CancelledError:
            if _leaving():
                raise
            raise TollbridgeError(Code.UNAVAILABLE, f"{self._name} ended the stream", retry_after_s=1) from None
        finally:
            stream.cancel()  # a reader that leaves early ends the handler too

    @property
    def reachable(self) -> bool:
        """Whether any replica could be asked now."""
        return bool(self._choice)

    @property
    def channels(self) -> dict[str, grpc.aio.Channel]:
        """To each replica, by its address."""
        return {target: replica.channel for target, replica in self._replicas.items()}

    async def _ask(self, method: str, payload: bytes, key: str, timeout_s: float, trace: str) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        call = _Call(next(self._ids), method, payload, key, trace, deadline, loop.create_future())
        timer = loop.call_later(timeout_s, self._expire, call)
        try:
            self._admit(call)
            return await call.future
        finally:
            timer.cancel()
            self._leave(call)

    def _expire(self, call: _Call) -> None:
        code = Code.DEADLINE_EXCEEDED if call.sent else Code.UNAVAILABLE
        call.fail(code, f"{self._name} {'did not answer in time' if call.sent else 'is not reachable'}")

    def _admit(self, call: _Call) -> None:
        if self._closed:
            call.fail(Code.UNAVAILABLE, f"{self._name} is closed")
        elif self._in_flight < self._max_in_flight:
            self._in_flight += 1
            call.admitted = True
            self.place(call)
        elif len(self._waiting) < WAITING_PER_SLOT * self._max_in_flight:
            self._waiting[call.id] = call
        else:
            call.fail(Code.OVERLOADED, f"too many calls wait for {self._name}")

    def _leave(self, call: _Call) -> None:
        if call.replica is not None:
            call.replica.drop(call)
        if not call.admitted:
            self._waiting.pop(call.id, None)
            return
        self._homeless.pop(call.id, None)
        self._in_flight -= 1
        while self._waiting and self._in_flight < self._max_in_flight:
            _, following = self._waiting.popitem(last=False)
            if not following.future.done():
                self._admit(following)

    def place(self, call: _Call) -> None:
        """Gives the call to a replica, or keeps it until there is one."""
        if (replica := self._chosen(call.key)) is not None:
            replica.take(call)
        else:
            self._homeless[call.id] = call

    def _chosen(self, key: str) -> "_Replica | None":
        if len(self._choice) <= 1:
            return self._choice[0] if self._choice else None
        if not key:
            return min(self._choice, key=lambda replica: len(replica.pending))
        return max(self._choice, key=lambda replica: _weight(replica.target, key))

    def changed(self) -> None:
        """A replica came, went or drains. Draining ones are the last resort: they still answer for a while."""
        live = [replica for replica in self._replicas.values() if replica.live]
        self._choice = tuple(replica for replica in live if not replica.draining) or tuple(live)
        if self._choice and self._homeless:
            calls, self._homeless = self._homeless, {}
            for call in calls.values():
                if not call.future.done():
                    self.place(call)

    async def _set_targets(self, targets: set[str]) -> None:
        gone = [self._replicas.pop(target) for target in self._replicas.keys() - targets]
        for target in targets - self._replicas.keys():
            self._replicas[target] = _Replica(self, self.service, target, self._log)
        for replica in gone:
            await replica.close()

    async def _follow_names(self) -> None:
        while True:
            try:
                targets = {target for host, port in self._addresses for target in await resolve(host, port)}
                await self._set_targets(targets)
            except (OSError, ValueError) as error:  # a timeout is an OSError, a malformed name a ValueError
                self._log.warning("name_not_resolved", service=self._name, reason=str(error))
            await asyncio.sleep(RESOLVE_S)


class _Replica:
    """One address: its channel, its stream and the calls that wait for its answers."""

    def __init__(
        self, client: PipeClient, service: str, target: str, log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self.target = target
        self.channel = grpc.aio.insecure_channel(target, _OPTIONS)
        self.pending: dict[int, _Call] = {}
        self.live = self.draining = False
        self._client, self._log = client, log.bind(service=service, target=target)
        self._open = self.channel.stream_stream(
            f"/{service}/Pipe", pipe_pb2.CallBatch.SerializeToString, pipe_pb2.ReplyBatch.FromString
        )
        self._queue: deque[_Call] = deque()
        self._cancelled: list[int] = []
        self._wake = asyncio.Event()
        self._ping, self._heard_at = False, 0.0
        self._task = asyncio.create_task(self._run(), name=f"pipe {target}")

    def take(self, call: _Call) -> None:
        call.replica, call.sent = self, False
        self.pending[call.id] = call
        self._queue.append(call)
        self._wake.set()

    def drop(self, call: _Call) -> None:
        """The caller waits no more; the server is told, if it has heard of the call."""
        if self.pending.pop(call.id, None) is not None and call.sent:
            self._cancelled.append(call.id)
            self._wake.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=END_LIMIT_S)
        await self.channel.close()

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        told = ""
        while True:
            reason = "the stream ended, or was silent"
            try:
                await self._converse()
            except grpc.aio.AioRpcError as error:
                reason = error_of(error).message
            except TimeoutError:
                reason = "no answer to the connection"
            except asyncio.CancelledError:
                if _leaving():
                    raise
            except Exception as error:  # noqa: BLE001  a bug here must not end the replica for ever
                self._log.exception("pipe_failed")
                reason = type(error).__name__
            finally:
                was_live = self.live
                self._lose()
            if was_live:
                pause_s, told = FIRST_PAUSE_S, ""
            if reason != told:
                self._log.warning("pipe_down", reason=reason)
                told = reason
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _converse(self) -> None:
        stream = self._open(metadata=self._client.metadata, wait_for_ready=True)
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                frame = await stream.read()  # an empty frame: we are let in
            writer = asyncio.create_task(self._write(stream))
            writer.add_done_callback(lambda _: stream.cancel())
            self._heard_at = asyncio.get_running_loop().time()
            self._beat(stream)
            while isinstance(frame, pipe_pb2.ReplyBatch):
                self._receive(frame)
                frame = await stream.read()
        finally:
            stream.cancel()
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)  # a broken stream is the reader's to tell

    def _beat(self, stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        if stream.done():
            return
        if loop.time() - self._heard_at > SILENCE_S:
            stream.cancel()  # its reader takes it from here
            return
        self._ping = True
        self._wake.set()
        loop.call_later(PING_S, self._beat, stream)

    def _receive(self, frame: pipe_pb2.ReplyBatch) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if not self.live or frame.draining is not self.draining:
            self.live, self.draining = True, frame.draining
            self._client.changed()
        for reply in frame.replies:
            call = self.pending.pop(reply.id, None)
            if call is None or call.future.done():
                continue
            if reply.HasField("failure"):
                call.future.set_exception(error_of_failure(reply.failure))
            else:
                call.future.set_result(reply.payload)

    async def _write(self, stream: _Stream) -> None:
        """All calls of one turn of the loop leave in one frame."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._cancelled or self._ping:
                frame, size, now = pipe_pb2.CallBatch(cancelled=self._cancelled), 0, loop.time()
                self._cancelled, self._ping = [], False
                while self._queue and size < BATCH_BYTES:
                    call = self._queue.popleft()
                    if call.id not in self.pending:
                        continue
                    left_ms = max(1, int((call.deadline - now) * 1000))
                    frame.calls.add(id=call.id, method=call.method, payload=call.payload, timeout_ms=left_ms)
                    if call.trace:
                        frame.calls[-1].traceparent = call.trace
                    call.sent = True
                    size += len(call.payload)
                await stream.write(frame)

    def _lose(self) -> None:
        """The stream is gone: what it hasn't answered goes elsewhere."""
        self.live = self.draining = False
        orphans, self.pending = self.pending, {}
        self._queue.clear()
        self._cancelled = []
        self._client.changed()
        for call in orphans.values():
            call.replica, call.moves = None, call.moves + call.sent
            call.sent = False
            if call.moves >= MAX_MOVES:
                call.fail(Code.UNAVAILABLE, "the replicas that were asked went away")
            elif not call.future.done():
                self._client.place(call)


def _leaving() -> bool:
    """Whether our own task is being cancelled: grpc.aio raises CancelledError also when the server cancels a call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _weight(target: str, key: str) -> bytes:
    return hashlib.blake2b(f"{target} {key}".encode(), digest_size=8).digest()
