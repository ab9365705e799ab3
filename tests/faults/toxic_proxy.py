"""A TCP proxy that harms what passes through it, so that a test can have a bad network without touching the machine's.

It listens on 127.0.0.1 in a thread with a loop of its own, hence it can be told from any test, async or not. A harm
holds for connections that are open and for new ones; `heal` ends it. It knows bytes, not protocols, and cuts where a
count of bytes says, not where a message ends.
"""

import asyncio
import contextlib
import dataclasses
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

READ_BYTES = 64 * 1024
TOLD_WITHIN_S = 20.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close sends RST rather than FIN."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What is done to the bytes. `cut_after_bytes` counts those of one connection on their way back to its client."""

    latency_s: float = 0.0
    blackhole: bool = False  # bytes are taken and go nowhere, and nobody is told
    refuse: bool = False  # new connections are reset
    cut_after_bytes: int | None = None


class ToxicProxy:
    """One way to `target` ("host:port")."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._harm = Harm()
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="toxic-proxy", daemon=True)
        self.port = 0
        self.connections = 0

    @property
    def address(self) -> str:
        """Where clients connect instead."""
        return f"127.0.0.1:{self.port}"

    def harm(self, **what: Any) -> None:
        """From now on, instead of any former harm; see Harm."""
        self._run(self._set(Harm(**what)))

    def heal(self) -> None:
        """Everything passes again. What a black hole has taken was kept and arrives now, as TCP would have it."""
        self.harm()

    def reset_all(self) -> None:
        """Every open connection is reset, both ways."""
        self._run(self._reset_all())

    def start(self) -> None:
        """Listens."""
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Resets everything and ends the thread."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TOLD_WITHIN_S)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(TOLD_WITHIN_S)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._set(Harm())
        await self._reset_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=TOLD_WITHIN_S / 2)

    async def _set(self, harm: Harm) -> None:
        self._harm = harm
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reset_all(self) -> None:
        for writer in list(self._open):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._open.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            if self._harm.refuse:
                _reset(writer)
                return
            back, onward = await asyncio.open_connection(*self._target)
            self._open.add(onward)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, onward, counted=False))
                both.create_task(self._pass(back, writer, counted=True))
        except* OSError:
            pass  # either side has gone: so does the other, below
        finally:
            for each in (writer, onward):
                if each is not None:
                    self._open.discard(each)
                    each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        passed = 0
        while data := await reader.read(READ_BYTES):
            while self._harm.blackhole:
                await self._changed.wait()
            if self._harm.latency_s:
                await asyncio.sleep(self._harm.latency_s)
            limit = self._harm.cut_after_bytes if counted else None
            if limit is not None and passed + len(data) > limit:
                writer.write(data[: max(0, limit - passed)])
                await writer.drain()
                break
            passed += len(data)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # ends the other direction too


def _reset(writer: asyncio.StreamWriter) -> None:
    held = writer.get_extra_info("socket")
    if held is not None and held.fileno() >= 0:  # it may have gone by itself in this very turn of the loop
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


@contextlib.contextmanager
def toxic(target: str) -> Iterator[ToxicProxy]:
    """A proxy to `target` for as long as the block runs."""
    proxy = ToxicProxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
