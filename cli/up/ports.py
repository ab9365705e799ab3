"""Free loopback ports, several at once.

Ports are taken from below the range from which systems choose the source port of outgoing connections. A port
inside that range can be lost while its server restarts: a client that keeps trying to reconnect may be given
the very port it tries to reach, connect to itself, and so keep the server out.
"""

import contextlib
import random
import socket

LOWEST = 20_000
HIGHEST = 32_000
TRIES = 200


class NoFreePort(Exception):
    """No free port was found after a bounded number of tries."""


def pick_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Returns `count` different ports that nobody listens on now. Nothing reserves them afterwards."""
    with contextlib.ExitStack() as held:
        return [_hold_one(held, host) for _ in range(count)]


def is_free(port: int, *, host: str) -> bool:
    """Tells whether a server could listen on `host:port` now."""
    with contextlib.ExitStack() as held:
        return _bind(held, host, port) is not None


def _hold_one(held: contextlib.ExitStack, host: str) -> int:
    for _ in range(TRIES):
        port = _bind(held, host, random.randint(LOWEST, HIGHEST))
        if port is not None:
            return port
    port = _bind(held, host, 0)  # the range is crowded: any port is better than none
    if port is None:
        raise NoFreePort(f"no free port on {host}")
    return port


def _bind(held: contextlib.ExitStack, host: str, port: int) -> int | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    candidate = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT doesn't count
    try:
        candidate.bind((host, port))
        candidate.listen(1)  # with SO_REUSEADDR two sockets may bind one port, but only one may listen
    except OSError:
        return None
    return int(candidate.getsockname()[1])
