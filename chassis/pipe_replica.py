"""One replica as the client of a Pipe sees it: its channel, its stream, and the calls that wait for its answers.

Streams belong to the client: each replica has a task that connects, reads, and connects again with a bounded back-off.
An empty frame asks for one in return, each second, which finds a replica that hangs. One that says that it leaves is
left (`part`) when what it was asked is answered; its heir knocks at the same address until a successor answers there.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import grpc
import structlog
from google.protobuf.message import Message

from chassis.errors import Code, TollbridgeError
from chassis.rpc import BATCH_BYTES, END_LIMIT_S, LIMITS
from chassis.status import error_of, error_of_failure
from chassis.tls import Certificates
from tollbridge.pipe.v1 import pipe_pb2

CONNECT_TIMEOUT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
LONGEST_KNOCK_S = 0.2
"""An heir's longest pause while its predecessor still answers."""
PING_S, SILENCE_S = 1.0, 4.0
"""A replica that has sent nothing for so long, though it is asked each second, hangs: its stream is given up. How
often it was asked is what counts: our own stop is nobody's silence, and is over before what came meanwhile is read."""
MAX_MOVES = 3
_OPTIONS = [
    *LIMITS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
]
_Stream: TypeAlias = "grpc.aio.StreamStreamCall[Message, pipe_pb2.ReplyBatch]"


@dataclass(slots=True, eq=False)
class Call:
    """One call, as its caller sees it: the future is done once, by a reply, a timeout or its caller's leaving."""

    id: int
    method: str
    payload: bytes
    key: str
    trace: str
    deadline: float
    future: asyncio.Future[bytes]
    replica: "Replica | None" = None
    sent: bool = False
    admitted: bool = False
    moves: int = 0

    def fail(self, code: Code, message: str) -> None:
        if not self.future.done():
            self.future.set_exception(TollbridgeError(code, message, retry_after_s=1))


class Client(Protocol):
    """Whose replica it is."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What lets us in."""

    def changed(self) -> None:
        """A replica came, went or leaves."""

    def place(self, call: Call) -> None:
        """This call needs a replica."""

    def inherit(self, leaving: "Replica") -> None:
        """It leaves, and needs an heir."""

    def forget(self, former: "Replica") -> None:
        """It has left."""


class Replica:
    """One address: its channel, its stream and the calls that wait for its answers. `former` had the address before."""

    def __init__(
        self,
        client: Client,
        *,
        service: str,
        target: str,
        log: structlog.typing.FilteringBoundLogger,
        former: "Replica | None" = None,
        tls: Certificates | None = None,
    ) -> None:
        self.target, self._service = target, service
        self._tls, self._credentials = tls, tls.for_channel() if tls else None
        self.channel = self._dialled()
        self.pending: dict[int, Call] = {}
        self.live = self.draining = False
        self._client, self._log = client, log.bind(service=service, target=target)
        self._former = former
        self._parted = False
        self._stream: _Stream | None = None
        self._queue: deque[Call] = deque()
        self._cancelled: list[int] = []
        self._wake = asyncio.Event()
        self._ping, self._silence_s = False, 0.0
        self._task = asyncio.create_task(self._run(), name=f"pipe {target}")

    def take(self, call: Call) -> None:
        call.replica, call.sent = self, False
        self.pending[call.id] = call
        self._queue.append(call)
        self._wake.set()

    def drop(self, call: Call) -> None:
        """The caller waits no more; the server is told, if it has heard of the call."""
        if self.pending.pop(call.id, None) is not None and call.sent:
            self._cancelled.append(call.id)
            self._wake.set()
        self._leave_if_parted()

    def part(self) -> None:
        """Others answer: the stream ends with the last answer that is still due."""
        self._parted = True
        self._leave_if_parted()

    def _leave_if_parted(self) -> None:
        if self._parted and not self.pending and self._stream is not None:
            self._stream.cancel()  # its reader takes it from here

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=END_LIMIT_S)
        await self.channel.close()

    def _dialled(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, _OPTIONS)
        name = self._service.split(".")[1]  # of tollbridge.auth.v1.AuthService: by that name its server is known
        return grpc.aio.secure_channel(
            self.target, self._credentials, [*_OPTIONS, ("grpc.ssl_target_name_override", name)]
        )

    async def _follow_certificates(self) -> None:
        if self._tls is not None and (newest := self._tls.for_channel()) is not self._credentials:
            self._credentials, former = newest, self.channel
            self.channel = self._dialled()
            await former.close()

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        told = ""
        while True:
            reason = "the stream ended, or was silent"
            try:
                await self._follow_certificates()
                await self._converse()
            except grpc.aio.AioRpcError as error:
                reason = error_of(error).message
            except TimeoutError:
                reason = "no answer to the connection"
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
            except Exception as error:  # noqa: BLE001  a bug here must not end the replica for ever
                self._log.exception("pipe_failed")
                reason = type(error).__name__
            finally:
                was_live, was_draining = self.live, self.draining
                self._lose()
            if was_draining or is_cancelled():
                break  # its heir goes on; or gRPC told of the server's end in place of ours
            if was_live:
                pause_s, told = FIRST_PAUSE_S, ""
            if reason != told and not self._is_awaited():
                self._log.warning("pipe_down", reason=reason)
                told = reason
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, LONGEST_KNOCK_S if self._is_awaited() else LONGEST_PAUSE_S)
        await self.channel.close()
        self._client.forget(self)

    def _is_awaited(self) -> bool:
        """Whether the one that had this address before still answers."""
        return self._former is not None and self._former.live

    async def _converse(self) -> None:
        opened = self.channel.stream_stream(
            f"/{self._service}/Pipe", pipe_pb2.CallBatch.SerializeToString, pipe_pb2.ReplyBatch.FromString
        )
        stream = self._stream = opened(metadata=self._client.metadata, wait_for_ready=True)
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                frame = await stream.read()  # an empty frame: we are let in
            if isinstance(frame, pipe_pb2.ReplyBatch) and frame.draining and self._is_awaited():
                return  # by our predecessor
            writer = asyncio.create_task(self._write(stream))
            writer.add_done_callback(lambda _: stream.cancel())
            self._silence_s = 0.0
            self._beat(stream)
            while isinstance(frame, pipe_pb2.ReplyBatch):
                self._receive(frame)
                frame = await stream.read()
        finally:
            self._stream = None
            stream.cancel()
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)  # a broken stream is the reader's to tell

    def _beat(self, stream: _Stream) -> None:
        if stream.done():
            return
        self._silence_s += PING_S
        if self._silence_s > SILENCE_S:
            stream.cancel()  # its reader takes it from here
            return
        self._ping = True
        self._wake.set()
        asyncio.get_running_loop().call_later(PING_S, self._beat, stream)

    def _receive(self, frame: pipe_pb2.ReplyBatch) -> None:
        self._silence_s = 0.0
        if not self.live or frame.draining is not self.draining:
            self.live, self.draining, began = True, frame.draining, frame.draining and not self.draining
            if began:
                self._client.inherit(self)
            self._client.changed()
        for reply in frame.replies:
            call = self.pending.pop(reply.id, None)
            if call is None or call.future.done():
                continue
            if reply.HasField("failure"):
                call.future.set_exception(error_of_failure(reply.failure))
            else:
                call.future.set_result(reply.payload)
        self._leave_if_parted()

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


def is_cancelled() -> bool:
    """Whether our own task is being cancelled: grpc.aio raises CancelledError also when the server cancels a call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
