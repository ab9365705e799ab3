"""An edge that charges nothing: same code, same providers, but no purse, no spool and no events.

What separates its throughput from a real edge's is the price of the money path. LEFT_OUT says what it does not do; all
else is done as ever: who asks and what they may, the route and its slot, the worst case and the limit on tokens that
follows from it, the usage event, and the charge, which is computed and shown. It exists only here: no setting of the
product switches charging off, and what this process serves is on the house. `start` runs it beside a gateway of the
bench, with that gateway's own edge's settings.
"""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import httpx

from services.edge import __main__ as edge
from services.edge import parts
from services.edge.spending.publisher import Publisher
from services.edge.spending.purse import Draw, Purse
from services.edge.spool.spool import Kind, Spool
from tollbridge.usage.v1 import usage_pb2

LEFT_OUT = (
    "leases (asked for, drawn from, stated), the spool (written, synced, forgotten), the bus and billing's word on each"
    " event, and so all that billing, NATS and PostgreSQL do for a charge"
)
START_S = 30.0
STOP_S = 20.0


class FreePurse(Purse):
    """Grants everything to everybody, in memory."""

    async def draw(self, *, worst_case_nano_usd: int, **_rest: object) -> Draw:
        """Whatever is asked."""
        return Draw(hold_id=str(self.spender), amount_nano_usd=worst_case_nano_usd)

    def settled(self, draw: Draw, *, spent_nano_usd: int) -> None:
        """Nobody pays."""

    def give_back(self, draw: Draw) -> None:
        """Nothing was held."""


class NoSpool:
    """Remembers nothing."""

    has_room = True
    always = False
    pending_bytes = 0

    def append(self, kind: Kind, key: bytes, payload: bytes) -> None:
        """Drops it."""

    async def synced(self) -> None:
        """At once."""

    def forget(self, keys: Iterable[bytes]) -> None:
        """Knows none."""

    def close(self) -> None:
        """Nothing is open."""


class NoPublisher(Publisher):
    """Tells nobody."""

    def add(self, event: usage_pb2.UsageRecorded, *, payload: bytes, key: bytes) -> None:
        """Drops it."""


class UnchargedParts(parts.Parts):
    """An edge's parts without a spool."""

    def _open_spool(self, config: object) -> Spool:
        return cast("Spool", NoSpool())


@contextlib.contextmanager
def start(edge_pid: int, folder: Path) -> Iterator[tuple[str, int]]:
    """Runs an uncharged edge with the settings of a running one; its base URL and pid, by which it is ended."""
    pairs = Path(f"/proc/{edge_pid}/environ").read_bytes().split(b"\0")
    environ = dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    spools = folder / "no-spool"
    spools.mkdir()
    own = {"HTTP_BIND": address, "METRICS_BIND": "127.0.0.1:0", "SPOOL_DIR": str(spools), "REPLICA": "uncharged"}
    environ |= {f"TOLLBRIDGE_{name}".encode(): value.encode() for name, value in own.items()}
    process = subprocess.Popen([sys.executable, "-m", "bench.uncharged"], env=environ)
    try:
        _wait(f"http://{address}/readyz")
        yield f"http://{address}", process.pid
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait(url: str) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{url} is not ready after {START_S} s")


def main() -> None:
    """The process."""
    parts.Purse = FreePurse  # type: ignore[attr-defined]  # the bench's one switch
    parts.Publisher = NoPublisher  # type: ignore[attr-defined]  # as above
    edge.Parts = UnchargedParts  # type: ignore[attr-defined]  # as above
    edge.main()


if __name__ == "__main__":
    main()
