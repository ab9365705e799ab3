"""Slots as the decision asks for them: taken, given back, stated, expired; all of it in PostgreSQL.

Nothing is kept here. Trouble with the database is UNAVAILABLE to who must know, and a log line where the slot comes
free by itself: a spender that doesn't state an attempt any more loses its slot.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Protocol

from services.router.attempts import Page


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What spenders said last, to whichever replica; the silent ones said nothing for as long as a lease lasts."""

    pages: Sequence[Page]
    silent: frozenset[str]


class SlotDesk(Protocol):
    """What `Decider` needs of the slots (`store_desk.PostgresDesk`)."""

    async def take(self, *, attempt_id: str, request_id: str, account_id: str, spender: str) -> str | None:
        """The account where the attempt holds a slot now, None when this one has none free. Raises UNAVAILABLE."""

    async def release(self, attempt_ids: Collection[str]) -> dict[str, str]:
        """Gives back what they hold; the accounts of those that held one. Raises UNAVAILABLE."""

    async def state(self, page: Page) -> None:
        """Renews the spender's slots and frees those that the page should list but doesn't. Raises UNAVAILABLE."""

    async def stated(self, spenders: Collection[str]) -> Stated:
        """What these spenders said last. Raises UNAVAILABLE."""
