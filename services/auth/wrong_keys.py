"""What guessing keys may cost: each address gets few failed look-ups a minute, and the same wrong key few a second.

Only well-formed keys come here, for junk costs no look-up at all. Nobody is refused who showed a good key lately: such
keys are looked up whatever comes from their address. Memory is bounded and belongs to one replica: the oldest go first.
"""

import asyncio
import ipaddress
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from chassis.errors import Code, TollbridgeError

T = TypeVar("T")

FAILED_AT_MOST = 20
WINDOW_S = 60.0
AT_ONCE = 4
"""Look-ups of one address that run side by side; more of them wait, so that a crowd behind one address is let in."""
WRONG_S = 1.0
"""How long a key is remembered to be unknown."""
MAX_NETWORKS = 10_000
MAX_KEYS = 20_000
IPV6_BITS = 64
"""What one customer of a network has of IPv6 addresses, at least."""


class _Asker:
    """One address: when its look-ups failed, and how many run."""

    def __init__(self) -> None:
        self.failed_at_s: deque[float] = deque(maxlen=FAILED_AT_MOST)
        self.running = 0
        self.places = asyncio.Semaphore(AT_ONCE)


class WrongKeys:
    """Remembers wrong keys, good ones, and who asked. Belongs to one event loop; times are monotonic."""

    def __init__(self) -> None:
        self._askers: OrderedDict[str, _Asker] = OrderedDict()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self.refused = 0

    def is_wrong(self, digest: bytes, *, now_s: float) -> bool:
        """Whether the key was looked up within the last second and isn't there."""
        at_s = self._wrong.get(digest)
        return at_s is not None and now_s - at_s < WRONG_S

    def asker_of(self, digest: bytes, client_ip: str) -> str:
        """Whose look-up it is; empty when it isn't counted: of a key that was good, or of an address not known."""
        return "" if digest in self._good else network(client_ip)

    def check(self, asker: str, *, now_s: float) -> None:
        """Raises RATE_LIMIT_EXCEEDED for those who may not look up now; those that run may fail, too."""
        found = self._askers.get(asker)
        if found is None:
            return
        self._askers.move_to_end(asker)
        failed = found.failed_at_s
        while failed and now_s - failed[0] >= WINDOW_S:
            failed.popleft()
        if len(failed) + found.running < FAILED_AT_MOST:
            return
        self.refused += 1
        raise TollbridgeError(
            Code.RATE_LIMIT_EXCEEDED,
            "Too many requests with a wrong API key came from this address.",
            retry_after_s=failed[0] + WINDOW_S - now_s,
        )

    @asynccontextmanager
    async def place(self, asker: str, *, clock_s: Callable[[], float]) -> AsyncIterator[None]:
        """A place among the look-ups of that address, for the time of the block. Raises as `check` does."""
        if not asker:
            yield
            return
        found = self._askers.setdefault(asker, _Asker())
        while len(self._askers) > MAX_NETWORKS:
            self._askers.popitem(last=False)
        async with found.places:
            self.check(asker, now_s=clock_s())
            found.running += 1
            try:
                yield
            finally:
                found.running -= 1

    def note(self, digest: bytes, asker: str, *, is_good: bool, now_s: float) -> None:
        """Remembers what a look-up found."""
        if is_good:
            _remember(self._good, digest, None)
            return
        self._good.pop(digest, None)
        _remember(self._wrong, digest, now_s)
        found = self._askers.get(asker)
        if found is not None:
            found.failed_at_s.append(now_s)


def network(client_ip: str) -> str:
    """What counts as one address: an IPv4 address, or the network of an IPv6 one; empty when it is not known."""
    try:
        address = ipaddress.ip_address(client_ip)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), IPV6_BITS), strict=False))


def _remember(kept: OrderedDict[bytes, T], digest: bytes, what: T) -> None:
    kept[digest] = what
    kept.move_to_end(digest)
    while len(kept) > MAX_KEYS:
        kept.popitem(last=False)
