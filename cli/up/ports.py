"""Free loopback ports, several at once.

Ports are taken from below the range from which systems choose the source port of outgoing connections. A port
inside that range can be lost while its server restarts: a client that keeps trying to reconnect may be given
the very port it tries to reach, connect to itself, and so keep the server out.

Between its choice and its server's start nobody listens on a port, for seconds. So an instance keeps the names of its
ports as abstract sockets, which the kernel frees with the process: instances that start side by side never choose
the same one. Only Linux has these; elsewhere chance must do.
"""

import contextlib
import random
import socket
import sys

LOWEST = 20_000
HIGHEST = 32_000
TRIES = 200


class NoFreePort(Exception):
    """No free port was found after a bounded number of tries."""


def pick_ports(count: int, *, host: str = "127.0.0.1", kept: contextlib.ExitStack | None = None) -> list[int]:
    """Returns `count` different ports that nobody listens on now.

    Until `kept` is closed no other process that picks ports here is given one of them; without it nothing keeps them.
    """
    with contextlib.ExitStack() as held, contextlib.ExitStack() as names:
        ports = [_hold_one(held, names, host) for _ in range(count)]
        if kept is not None:
            kept.push(names.pop_all())
        return ports


def is_free(port: int, *, host: str) -> bool:
    """Tells whether a server could listen on `host:port` now."""
    with contextlib.ExitStack() as held:
        return _bind(held, host, port) is not None


def _hold_one(held: contextlib.ExitStack, names: contextlib.ExitStack, host: str) -> int:
    for _ in range(TRIES):
        port = _bind(held, host, random.randint(LOWEST, HIGHEST))
        if port is not None and _take_name(names, port):
            return port
    port = _bind(held, host, 0)  # the range is crowded: any port is better than none
    if port is None:
        raise NoFreePort(f"no free port on {host}")
    return port


def _take_name(names: contextlib.ExitStack, port: int) -> bool:
    """Whether no other process keeps this port for a server that it is about to start."""
    if sys.platform != "linux":
        return True
    name = names.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        name.bind(f"\0tollbridge-port-{port}")
    except OSError:
        return False
    return True


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
