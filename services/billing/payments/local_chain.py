"""A chain in a file, for tests and for trying things out: the watcher `local`.

Each line of `chain_file` is a transfer as JSON: `{"transaction_id", "to", "from", "amount" (USDT, as text), "at_us",
"confirmations"}`. Whoever writes the file decides what was paid, so it has no place where money is real. Without a
file nothing ever arrives.
"""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import msgspec

from chassis.errors import Code, TollbridgeError
from services.billing.config import CryptoSection
from services.billing.payments.chain import Listed, OnChain

MAX_BYTES = 1 << 20


class _Line(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    transaction_id: str
    to: str
    amount: Decimal
    at_us: int
    confirmations: int
    sender: str = ""


class LocalChain:
    """The file, read anew each time."""

    def __init__(self, section: CryptoSection) -> None:
        self._path = Path(section.chain_file) if section.chain_file else None

    async def listed(self, address: str, *, since_us: int) -> Sequence[Listed]:
        """See Chain."""
        found = {
            line.transaction_id: Listed(transaction_id=line.transaction_id, arrived_at_us=line.at_us)
            for line in await self._lines()
            if line.to == address and line.at_us >= since_us
        }
        return sorted(found.values(), key=lambda each: each.arrived_at_us)

    async def look_up(self, address: str, transaction_ids: Sequence[str]) -> Mapping[str, Sequence[OnChain]]:
        """See Chain."""
        found: dict[str, list[OnChain]] = {transaction_id: [] for transaction_id in transaction_ids}
        for line in await self._lines():
            transfers = found.get(line.transaction_id)
            if transfers is not None and line.to == address:
                transfers.append(
                    OnChain(
                        position=len(transfers),
                        sender=line.sender,
                        amount_micro_usdt=int(line.amount * 1_000_000),
                        arrived_at_us=line.at_us,
                        confirmations=line.confirmations,
                    )
                )
        return found

    async def _lines(self) -> Sequence[_Line]:
        path = self._path
        if path is None:
            return ()
        try:
            content = await asyncio.to_thread(lambda: path.read_bytes()[:MAX_BYTES] if path.exists() else b"")
            return [msgspec.json.decode(line, type=_Line) for line in content.splitlines() if line.strip()]
        except (OSError, msgspec.MsgspecError) as error:
            raise TollbridgeError(Code.UNAVAILABLE, f"the chain file can't be read: {error}") from error
