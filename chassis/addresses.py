"""Where a service's replicas are: a comma list of host:port, or a name that stands for all of them."""

import asyncio
import ipaddress
import socket

from chassis.settings import SettingsError

RESOLVE_TIMEOUT_S = 5.0


def parse(addresses: str) -> list[tuple[str, int]]:
    """Host and port of each; raises SettingsError when one is malformed or there is none."""
    found = [_split(part.strip()) for part in addresses.split(",") if part.strip()]
    if not found:
        raise SettingsError(["an address list is empty"])
    return found


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError([f"{address!r} is not host:port"])
    return host, int(port)


def is_ip(host: str) -> bool:
    """Whether it needs no resolving."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


async def resolve(host: str, port: int) -> list[str]:
    """The targets behind a host, off the loop; raises OSError or TimeoutError."""
    if is_ip(host):
        return [f"{host}:{port}"]
    async with asyncio.timeout(RESOLVE_TIMEOUT_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [f"[{info[4][0]}]:{port}" if info[0] == socket.AF_INET6 else f"{info[4][0]}:{port}" for info in found]
