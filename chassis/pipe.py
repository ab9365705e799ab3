"""The client of a Pipe: many calls on one long stream per replica, all calls of a loop turn in one frame.

A call belongs to its caller's task: whoever stops waiting (timeout, cancellation) takes it back; the server is told.
When a stream breaks, its unanswered calls go to another live replica, or wait for one, until their own timeout, so a
call must be safe to run twice (by the ids in it). After three broken streams a call is given up: it may be the cause.
A replica that says that it leaves gets no new calls as soon as somebody else answers: another replica, or its successor
on the same address, who is looked for from then on.
"""

import asyncio
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from chassis.addresses import is_ip, parse, resolve
from chassis.errors import Code, TollbridgeError
from chassis.pipe_replica import Call, Replica, is_cancelled
from chassis.rpc import MAX_MESSAGE_BYTES
from chassis.status import error_of
from chassis.telemetry import Tracer
from chassis.tls import Certificates

RESOLVE_S = 5.0
SECOND_LOOK_S = 0.05
"""A call's time ends in two steps: after our own stop the loop runs its timers before it reads what came meanwhile."""
WAITING_PER_SLOT = 4
"""How many calls may wait for each one that is in flight, before they are refused."""
R = TypeVar("R", bound=Message)


class PipeClient:
    """Calls one service on any of its replicas."""

    def __init__(
        self,
        *,
        descriptor: ServiceDescriptor,
        addresses: str,
        token: str,
        tracer: Tracer,
        max_in_flight: int = 4096,
        tls: Certificates | None = None,
    ) -> None:
        self.service, self._name = descriptor.full_name, descriptor.name
        self._addresses = parse(addresses)
        self.metadata = (("authorization", token),)
        self._tracer, self._tls = tracer, tls
        self._max_in_flight, self._in_flight = max_in_flight, 0
        self._ids = itertools.count(1)
        self._replicas: dict[str, Replica] = {}
        self._former: set[Replica] = set()  # they leave, and have heirs among the others
        self._choice: tuple[Replica, ...] = ()
        self._waiting: OrderedDict[int, Call] = OrderedDict()  # for a slot
        self._homeless: dict[int, Call] = {}  # for a live replica
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
        for replica in list(self._former):
            await replica.close()
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
            if is_cancelled():
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
        call = Call(next(self._ids), method, payload, key, trace, deadline, loop.create_future())
        timer = loop.call_later(timeout_s - SECOND_LOOK_S, loop.call_later, SECOND_LOOK_S, self._expire, call)
        try:
            self._admit(call)
            return await call.future
        finally:
            timer.cancel()
            self._leave(call)

    def _expire(self, call: Call) -> None:
        code = Code.DEADLINE_EXCEEDED if call.sent else Code.UNAVAILABLE
        call.fail(code, f"{self._name} {'did not answer in time' if call.sent else 'is not reachable'}")

    def _admit(self, call: Call) -> None:
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

    def _leave(self, call: Call) -> None:
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

    def place(self, call: Call) -> None:
        """Gives the call to a replica, or keeps it until there is one."""
        if (replica := self._chosen(call.key)) is not None:
            replica.take(call)
        else:
            self._homeless[call.id] = call

    def _chosen(self, key: str) -> "Replica | None":
        if len(self._choice) <= 1:
            return self._choice[0] if self._choice else None
        if not key:
            return min(self._choice, key=lambda replica: len(replica.pending))
        return max(self._choice, key=lambda replica: _weight(replica.target, key))

    def changed(self) -> None:
        """A replica came, went or leaves. Those that leave are the last resort: they still answer for a while."""
        live = [replica for replica in (*self._replicas.values(), *self._former) if replica.live]
        staying = tuple(replica for replica in live if not replica.draining)
        self._choice = staying or tuple(live)
        if staying:
            for replica in self._former:
                replica.part()
        if self._choice and self._homeless:
            calls, self._homeless = self._homeless, {}
            for call in calls.values():
                if not call.future.done():
                    self.place(call)

    def inherit(self, leaving: Replica) -> None:
        """Whoever answers at its address after it is looked for from now on."""
        if self._replicas.get(leaving.target) is leaving:  # else the address was given up
            self._former.add(leaving)
            self._replicas[leaving.target] = self._made(leaving.target, former=leaving)

    def forget(self, former: Replica) -> None:
        """It has left, and closed what it had."""
        self._former.discard(former)

    def _made(self, target: str, *, former: Replica | None = None) -> Replica:
        return Replica(self, service=self.service, target=target, log=self._log, former=former, tls=self._tls)

    async def _set_targets(self, targets: set[str]) -> None:
        gone = [self._replicas.pop(target) for target in self._replicas.keys() - targets]
        for target in targets - self._replicas.keys():
            self._replicas[target] = self._made(target)
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


def _weight(target: str, key: str) -> bytes:
    return hashlib.blake2b(f"{target} {key}".encode(), digest_size=8).digest()
