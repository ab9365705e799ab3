"""What a stop of ours does to an answer that is under way: what came meanwhile was in time, and what went wrong first
counts."""

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest
import uvloop

from tests.fakes.stop import Stop
from upstream.client import HttpCall, Timeouts, UpstreamClient
from upstream.outcome import AttemptFailed

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def asked(serve: Callable[[socket.socket, Stop], None], timeouts: Timeouts) -> bytes:
    """What comes of a provider in a thread of its own, to a client on uvloop."""
    read = threading.Event()

    def provide(listening: socket.socket, stop: Stop) -> None:
        taken, _ = listening.accept()
        with taken:
            taken.recv(65536)
            serve(taken, stop)
            read.wait(5)

    async def ask(listening: socket.socket) -> bytes:
        stop = Stop(asyncio.get_running_loop())
        provider = threading.Thread(target=provide, args=(listening, stop))
        provider.start()
        client = UpstreamClient()
        await client.start()
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            call = HttpCall(method="POST", url=url, headers={"content-type": "application/json"}, body=b"{}")
            return await (await client.send(call, timeouts=timeouts)).read(10)
        finally:
            await client.close()
            read.set()
            provider.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        return uvloop.run(ask(listening))


@pytest.mark.parametrize(
    ("first_byte_s", "idle_s", "total_s"), [(0.2, 9, 9), (9, 0.2, 9), (9, 9, 0.2)], ids=["first byte", "idle", "total"]
)
@pytest.mark.parametrize("sent", [b"", CHUNKED, CHUNKED + b"1\r\na\r\n"], ids=["nothing", "head", "a part"])
def test_what_came_while_we_stood_still_was_in_time(
    first_byte_s: float, idle_s: float, total_s: float, sent: bytes
) -> None:
    """Whatever of an answer is still to come then, its time is over only when nothing of it waits to be read."""
    whole = CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"

    def serve(client: socket.socket, stop: Stop) -> None:
        client.sendall(sent)
        with stop:
            client.sendall(whole.removeprefix(sent))

    assert asked(serve, Timeouts(connect_s=5, first_byte_s=first_byte_s, idle_s=idle_s, total_s=total_s)) == b"ab"


def test_a_provider_that_was_silent_for_too_long_before_its_total_time_is_a_silent_one() -> None:
    """The end of the total time is charged for: what went wrong before it counts, though we see both at once."""

    def serve(client: socket.socket, stop: Stop) -> None:
        client.sendall(CHUNKED + b"1\r\na\r\n")
        with stop:
            pass

    with pytest.raises(AttemptFailed, match="stopped sending"):
        asked(serve, Timeouts(connect_s=5, first_byte_s=5, idle_s=0.1, total_s=0.3))
