"""What a client of a Pipe makes of its own stops: nobody's silence. On uvloop, which looks at its timers first."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import uvloop

from chassis.pipe import PipeClient
from tests.fakes.stop import Stop
from tests.unit.chassis.pipe_rig import AUTH, ask, client, eventually
from tollbridge.auth.v1 import auth_pb2
from tollbridge.pipe.v1 import pipe_pb2

STOP_S = 1.0


class Others:
    """A server that runs while this process's loop does not: each frame is answered at once, calls when told to."""

    def __init__(self) -> None:
        self.streams = 0
        self.called, self.answering = threading.Event(), threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        handlers = {
            "Pipe": grpc.stream_stream_rpc_method_handler(
                self._talk,
                request_deserializer=pipe_pb2.CallBatch.FromString,
                response_serializer=pipe_pb2.ReplyBatch.SerializeToString,
            )
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(AUTH.full_name, handlers)])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self.answering.set()
        self._server.stop(0).wait()

    def _talk(self, frames: Iterator[pipe_pb2.CallBatch], _context: object) -> Iterator[pipe_pb2.ReplyBatch]:
        self.streams += 1
        replies: queue.SimpleQueue[pipe_pb2.ReplyBatch | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(frames, replies), daemon=True).start()
        yield pipe_pb2.ReplyBatch()
        while (reply := replies.get()) is not None:
            yield reply

    def _listen(self, frames: Iterator[pipe_pb2.CallBatch], replies: queue.SimpleQueue[Any]) -> None:
        try:
            for frame in frames:
                replies.put(pipe_pb2.ReplyBatch())
                for call in frame.calls:
                    self.called.set()
                    self.answering.wait(10)
                    answer = auth_pb2.GetCustomerResponse(customer=auth_pb2.Customer(name="b"))
                    reply = pipe_pb2.Reply(id=call.id, payload=answer.SerializeToString())
                    replies.put(pipe_pb2.ReplyBatch(replies=[reply]))
        except grpc.RpcError:  # the client ended the stream
            pass
        finally:
            replies.put(None)


@asynccontextmanager
async def connected(others: Others) -> AsyncIterator[PipeClient]:
    pipe = await client(others.address)
    try:
        await eventually(lambda: pipe.reachable)
        yield pipe
    finally:
        await pipe.close()


def on_uvloop(test: Callable[[Others], Coroutine[Any, Any, None]]) -> None:
    others = Others()
    try:
        uvloop.run(test(others))
    finally:
        others.stop()


def test_an_answer_that_came_while_we_stood_still_was_in_time() -> None:
    """However long the stop was, and though the call's own time went by in it."""

    async def test(others: Others) -> None:
        stop = Stop(asyncio.get_running_loop(), seconds=STOP_S)

        def meanwhile() -> None:
            assert others.called.wait(10)
            with stop:
                others.answering.set()

        async with connected(others) as pipe:
            stopping = asyncio.create_task(asyncio.to_thread(meanwhile))
            assert (await ask(pipe, timeout_s=STOP_S / 2)).name == "b"
            await stopping

    on_uvloop(test)


def test_a_replica_that_could_not_be_heard_while_we_stood_still_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream goes on, and so do the calls that wait for its answers."""
    monkeypatch.setattr("chassis.pipe_replica.PING_S", STOP_S / 8)
    monkeypatch.setattr("chassis.pipe_replica.SILENCE_S", STOP_S / 2)

    async def test(others: Others) -> None:
        stop = Stop(asyncio.get_running_loop(), seconds=STOP_S)

        def meanwhile() -> None:
            with stop:
                others.answering.set()

        async with connected(others) as pipe:
            for _ in range(2):
                await asyncio.to_thread(meanwhile)
                assert (await ask(pipe)).name == "b"
            assert others.streams == 1

    on_uvloop(test)
