"""Slots as the decision asks for them: taken, given back, stated, expired; each one transaction in PostgreSQL.

Nothing is kept here. Trouble with the database is UNAVAILABLE to who must know, and a log line where the slot comes
free by itself: a spender that doesn't state an attempt any more loses its slot.
"""

from collections.abc import Collection
from typing import Protocol

from services.router.attempts import Page


class SlotDesk(Protocol):
    """What `Decider` needs of the slots (`store_desk.PostgresDesk`)."""

    async def take(self, *, attempt_id: str, request_id: str, account_id: str, spender: str) -> str | None:
        """The account where the attempt holds a slot now, None when this one has none free. Raises UNAVAILABLE."""

    async def release(self, attempt_ids: Collection[str]) -> dict[str, str]:
        """Gives back what they hold; the accounts of those that held one. Raises UNAVAILABLE."""

    async def state(self, page: Page) -> None:
        """Renews the spender's slots and frees those that the page should list but doesn't. Raises UNAVAILABLE."""
