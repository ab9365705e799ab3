"""Transfers that this process has just committed, remembered until they are on the bus and sealed.

A committed transfer never changes, so memory is as good as its row, and reading each row again was a third of what a
charge cost. That a transfer waits is still said by the queues' rows alone, which its own transaction wrote: what is not
remembered (another replica wrote it, or there was no room for it) is read from the database.
"""

import asyncio
from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from services.billing.ledger import MAX_BALANCE, Transfer

MOST = 4_000
"""Transfers that one reader's memory has room for: some four megabytes."""


class Written(msgspec.Struct, frozen=True):
    """What one statement wrote, and so what waits in one row of each queue; in its order there."""

    created_at_us: int
    transfers: Sequence[Transfer]


class Memory:
    """For one reader of a queue, who takes what it finds. The oldest is forgotten for what has no room."""

    def __init__(self) -> None:
        self._written: dict[UUID, Written] = {}
        self._size = 0
        self._new = 0
        self.is_filling = asyncio.Event()

    def add(self, written: Written) -> None:
        """Remembers what is committed."""
        self._written[written.transfers[0].id] = written
        self._size += len(written.transfers)
        self._new += len(written.transfers)
        while self._size > MOST:
            self._size -= len(self._written.pop(next(iter(self._written))).transfers)
        if self._new >= MOST // 2:
            self.is_filling.set()

    def start_reading(self) -> None:
        """`is_filling` is set again once half of the room was needed from now on."""
        self._new = 0
        self.is_filling.clear()

    def take(self, first: UUID, count: int) -> Written | None:
        """What waits in a row of so many transfers, by the first of them."""
        written = self._written.get(first)
        if written is None or len(written.transfers) != count:
            return None
        del self._written[first]
        self._size -= count
        return written


def as_queued(transfers: Iterable[Transfer]) -> list[Transfer]:
    """In the order of `billing.queue_transfers`: what is sent again, then read from its rows, is the same message."""
    return sorted(transfers, key=lambda each: (each.version or MAX_BALANCE, each.id.int))
