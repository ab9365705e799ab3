"""The keys that this process has looked up lately, and the instant as of which each is known to be true.

Revocation has to reach everybody within a second although answers are kept by auth and again by edge. So an answer
may live for what is left of that second since the database was last known to agree with it: since it was read, or
since the last poll that reported no change of it (`changes.py`), whichever is later. Nothing is believed for longer.

Entries are found by digest, never by the secret. Pure but for the clock readings that are handed in.
"""

import dataclasses
from collections import OrderedDict

from services.auth.customers import Customer
from services.auth.key_terms import ApiKey

LIFE_S = 1.0
"""How long an entry is kept after it was read."""
TRUSTED_S = 0.95
"""How long an answer may be used after the database last agreed with it; the rest is for the way to edge."""
CAPACITY = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """A key and whose it is."""

    key: ApiKey
    customer: Customer


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A holder and the reading of the monotonic clock as of which it was true."""

    holder: Holder
    true_at_s: float


class KeptKeys:
    """A bounded map of digests to holders. Belongs to one event loop."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, Kept] = OrderedDict()
        self._polled_at_s = float("-inf")
        self.generation = 0
        """Grows with each change: what was read before a change that arrived meanwhile must not be kept."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes, *, now_s: float) -> Kept | None:
        """The holder, if it is still to be believed."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        true_at_s = max(entry.true_at_s, self._polled_at_s)
        if now_s - entry.true_at_s >= LIFE_S or now_s - true_at_s >= TRUSTED_S:
            del self._entries[digest]
            return None
        return Kept(entry.holder, true_at_s)

    def put(self, digest: bytes, kept: Kept, *, generation: int) -> None:
        """Keeps what was read while `generation` held; does nothing when a change came in between."""
        if generation != self.generation:
            return
        self._entries[digest] = kept
        self._entries.move_to_end(digest)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def drop(self, *, key_id: str, customer_id: str) -> None:
        """Forgets one key, or without `key_id` all keys of the customer. Linear, as changes are rare."""
        self.generation += 1
        for digest in [d for d, kept in self._entries.items() if _concerns(kept, key_id, customer_id)]:
            del self._entries[digest]

    def clear(self) -> None:
        """Forgets everything."""
        self.generation += 1
        self._entries.clear()

    def confirm(self, *, polled_at_s: float) -> None:
        """Every change committed before `polled_at_s` has been dropped: what is left was true then."""
        self._polled_at_s = max(self._polled_at_s, polled_at_s)


def _concerns(kept: Kept, key_id: str, customer_id: str) -> bool:
    if key_id:
        return kept.holder.key.id == key_id
    return kept.holder.key.customer_id == customer_id
