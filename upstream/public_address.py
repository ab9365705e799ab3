"""Which addresses a URL that a customer gave us may lead to: public ones, so that nobody makes us call our own network.

The name is resolved once, each address is judged, and the connection goes to a judged address (`upstream.pinned`): a
name that answers otherwise the second time changes nothing. Networks that the operator allows go before every rule.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2000
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
"""What every parser of URLs reads alike: another spelling could be an address to the client and a name to us."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_METADATA = ipaddress.ip_address("168.63.129.16")
"""A cloud's own service at a public address; the others are link-local."""


class Forbidden(Exception):
    """The URL leads to where we don't go, or nowhere; the message says why and is fit for its owner."""


def checked_url(url: str, *, allowed: Sequence[Network]) -> SplitResult:
    """The URL's parts, as far as they can be judged without asking for its name. Raises Forbidden."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Forbidden("it is no URL") from None
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise Forbidden("it is too long or has characters that no URL has")
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise Forbidden("it must be an https URL")
    if parts.scheme == "http" and not allowed:
        raise Forbidden("it must be an https URL")
    if not _HOST.fullmatch(host):
        raise Forbidden("its host is no name and no address")
    if parts.username is not None or parts.password is not None:
        raise Forbidden("it must not have a user or a password in it")
    literal = _literal(host)
    if literal is not None and not is_reachable(literal, allowed=allowed):
        raise Forbidden("its address is not public")
    return parts


def is_reachable(address: Address, *, allowed: Sequence[Network]) -> bool:
    """Whether the address is public, or in a network that is allowed."""
    if any(address in network for network in allowed if network.version == address.version):
        return True
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_reachable(inner, allowed=allowed)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and address != _METADATA


async def resolve(parts: SplitResult, *, allowed: Sequence[Network]) -> list[Address]:
    """The addresses of a checked URL that we may call; http only in allowed networks. Raises Forbidden."""
    host = parts.hostname or ""
    literal = _literal(host)
    found = [literal] if literal is not None else await _look_up(host)
    reachable = [address for address in found if is_reachable(address, allowed=allowed)]
    if parts.scheme == "http":
        reachable = [it for it in reachable if any(it in net for net in allowed if net.version == it.version)]
    if not reachable:
        raise Forbidden("its address is not public" if parts.scheme == "https" else "it must be an https URL")
    return reachable


def _literal(host: str) -> Address | None:
    """The address that the host is written as, in any spelling that a resolver takes for one (`127.1`, `0x7f.1`)."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that this one leads to."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


async def _look_up(host: str) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Forbidden("its name can't be resolved") from None
    return [ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
