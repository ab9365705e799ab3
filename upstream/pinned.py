"""The way to addresses that were judged (`upstream.public_address`), whatever a name answers by then."""

import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

from upstream.public_address import Address


class Pinned(AbstractResolver):
    """Answers every name with the addresses that were judged."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The judged addresses, whatever the name."""
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""
