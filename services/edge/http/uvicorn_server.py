"""uvicorn as edge runs it: no signals of its own, and a write buffer limit of zero.

With the limit at zero (`http_protocol` sets it) the transport asks for a pause as soon as the kernel takes fewer bytes
than were written, and uvicorn's `send` waits before the next write. So when a `send` is reached, all earlier bytes have
left this process, which is what "handed to the client" means in settlement.
"""

import contextlib
import functools
import socket
from collections.abc import Iterator

import uvicorn

from services.edge.app import EdgeApp
from services.edge.http.protocol import IDLE_TIMEOUT_S, CarefulProtocol
from services.edge.http.unread import UnreadRoom


class _Server(uvicorn.Server):
    """A server whose signals are the process' own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Listens at once, so that the port is known; serves until `stop`, which lets running requests finish."""

    def __init__(self, *, app: EdgeApp, bind: str, grace_s: float, reuse_port: bool = False) -> None:
        host, _, port = bind.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        place = (host.strip("[]"), int(port))
        self._socket = socket.create_server(place, family=family, backlog=4096, reuse_port=reuse_port)
        self.unread = UnreadRoom()
        self._server = _Server(
            uvicorn.Config(
                app,
                http=functools.partial(CarefulProtocol, room=self.unread),  # type: ignore[arg-type]  # it only calls it
                ws="none",
                lifespan="off",
                loop="none",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=IDLE_TIMEOUT_S,
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

    def stop(self) -> None:
        """Takes no new connections; `serve` returns when the running requests have ended."""
        self._server.should_exit = True
