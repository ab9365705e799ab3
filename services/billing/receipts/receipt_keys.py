"""The keys that sign receipts: this process's own private one, and every public one that was ever used here.

A public key is stored before the first receipt is signed with it and never dropped, so that receipts stay checkable
after the private key was replaced. Without a private key nothing is signed.
"""

import dataclasses

from chassis import db
from services.billing.receipts import receipt_store
from services.billing.receipts.signatures import PublicKey, SigningKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """A public key, and since when it is known, in microseconds since the epoch."""

    key: PublicKey
    since_us: int


class ReceiptKeys:
    """Signs, and lists what to check with. `own` is None where no key is configured."""

    def __init__(self, *, pool: db.Pool, own: SigningKey | None) -> None:
        self._pool = pool
        self._own = own
        self._is_stored = False

    async def signed(self, document: dict[str, object]) -> dict[str, object]:
        """The document with its signature, null without a key. Raises UNAVAILABLE."""
        if self._own is None:
            return {**document, "signature": None}
        await self._store(self._own)
        return self._own.signed(document)

    async def listed(self) -> list[ListedKey]:
        """All of them, the oldest first. Raises UNAVAILABLE."""
        if self._own is not None:
            await self._store(self._own)
        async with db.transaction(self._pool) as connection:
            rows = await receipt_store.read_keys(connection)
        return [ListedKey(key=PublicKey(raw), since_us=since_us) for raw, since_us in rows]

    async def _store(self, own: SigningKey) -> None:
        if not self._is_stored:
            async with db.transaction(self._pool) as connection:
                await receipt_store.add_key(connection, own.public.raw)
            self._is_stored = True
