"""uvicorn as edge runs it: no signals of its own, and a write buffer limit of zero.

With the limit at zero (`http_protocol` sets it) the transport asks for a pause as soon as the kernel takes fewer bytes
than were written, and uvicorn's `send` waits before the next write. So when a `send` is reached, all earlier bytes have
left this process, which is what "handed to the client" means in settlement.

The end of the listener loses no connection that the kernel has made with a client already: what waits to be accepted is
accepted first, in the same turn of the loop. What its client has not yet used gets a moment for its request.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn

from services.edge.app import EdgeApp, Receive, Scope, Send
from services.edge.http.protocol import IDLE_TIMEOUT_S, CarefulProtocol
from services.edge.http.unread import UnreadRoom
from services.edge.settings import Settings

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BACKLOG = 4096


class _Server(uvicorn.Server):
    """A server whose signals are the process' own business, and whose end resets no connection that waits."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        last = [connection for each in sockets or () for connection in _waiting(each)]
        # Begun before the first pause of the next line, which is after the listener's end.
        joining = [loop.create_task(loop.connect_accepted_socket(self._protocol, each)) for each in last]
        await super().shutdown(sockets)
        await asyncio.gather(*joining, return_exceptions=True)  # one that is gone already is no error

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes one for each connection that it accepts."""
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # uvicorn's own call
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


class HttpServer:
    """Listens at once, so that the port is known; serves until `stop`, which lets running requests finish."""

    def __init__(
        self,
        *,
        app: Application,
        bind: str,
        grace_s: float = 30.0,
        reuse_port: bool = False,
        is_leaving: Callable[[], bool] = lambda: False,
        unread: UnreadRoom | None = None,
    ) -> None:
        host, _, port = bind.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        place = (host.strip("[]"), int(port))
        self._socket = socket.create_server(place, family=family, backlog=BACKLOG, reuse_port=reuse_port)
        self.unread = unread or UnreadRoom()
        self._server = _Server(
            uvicorn.Config(
                app,
                http=functools.partial(  # type: ignore[arg-type]  # it only calls it
                    CarefulProtocol, room=self.unread, is_leaving=is_leaving
                ),
                interface="asgi3",
                ws="none",
                lifespan="off",
                loop="none",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=2 * IDLE_TIMEOUT_S,  # not before `protocol.py`, which looks twice
                timeout_graceful_shutdown=int(grace_s),
                h11_max_incomplete_event_size=None,
            )
        )

    @property
    def address(self) -> str:
        """host:port that is listened on."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    async def serve(self) -> None:
        """Serves until `stop` was called and running requests have ended or the grace is over."""
        await self._server.serve(sockets=[self._socket])

    def stop(self, *, grace_s: float | None = None) -> None:
        """Takes no new connections; `serve` returns when the running requests have ended, or after the grace."""
        if grace_s is not None:
            self._server.config.timeout_graceful_shutdown = int(grace_s)
        self._server.should_exit = True


class Ports:
    """The public port and, where `admin_bind` names one, the admin port. They begin and end together."""

    def __init__(self, *, settings: Settings, app: EdgeApp, is_leaving: Callable[[], bool]) -> None:
        wanted: list[tuple[str, Application]] = [(settings.http_bind, app)]
        if settings.admin_bind:
            wanted.append((settings.admin_bind, app.serve_admin))
        reuse, unread = settings.http_reuse_port, UnreadRoom()
        self._servers = [
            HttpServer(app=each, bind=bind, reuse_port=reuse, is_leaving=is_leaving, unread=unread)
            for bind, each in wanted
        ]

    @property
    def addresses(self) -> list[str]:
        """What is listened on, the public port first."""
        return [each.address for each in self._servers]

    async def serve(self) -> None:
        """Serves until `stop` was called and running requests have ended or the grace is over."""
        await asyncio.gather(*(each.serve() for each in self._servers))

    def stop(self, *, grace_s: float) -> None:
        """Takes no new connections, on either port."""
        for each in self._servers:
            each.stop(grace_s=grace_s)


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that nobody has accepted yet."""
    for _ in range(BACKLOG):
        try:
            connection, _ = listener.accept()
        except OSError:  # there is none, or no room for one
            return
        connection.setblocking(False)
        yield connection
