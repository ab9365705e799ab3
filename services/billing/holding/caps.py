"""Spend caps: what a key or a customer may spend on requests that begin in one day or month (of UTC), or in all. Pure.

A cap account counts for one owner and period what charges took (`spent`) and what open holds may still take (`held`).
A hold is granted when it fits under the cap as it is at that moment, which the grant writes down; so a cap that is
lowered below what is used refuses grants and contradicts nothing. Usage is charged whatever the cap says, also when it
exceeds its hold: what finds no room under the written cap counts as `overrun`. So spent + held <= cap is a constraint
of the database, and spent + overrun is what the customer paid for these requests, less refunds.

A hold and a charge remember the ids of their cap accounts: all that happens to them later counts in the period in which
the request began.
"""

import dataclasses
import datetime
import enum
from collections.abc import Iterable, Sequence
from uuid import UUID

from chassis.errors import Code, TollbridgeError
from chassis.ids import unix_ms


class Per(enum.StrEnum):
    """How long a cap counts before it begins anew."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A cap that binds one request: the account that counts for it, and how much that may be."""

    id: str
    amount_nano_usd: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CapAccount:
    """One row of billing.cap_accounts. `cap_nano_usd` is that of the last grant under it."""

    id: str
    cap_nano_usd: int
    spent_nano_usd: int = 0
    held_nano_usd: int = 0
    overrun_nano_usd: int = 0

    @property
    def paid_nano_usd(self) -> int:
        """What the period's requests took, less refunds."""
        return self.spent_nano_usd + self.overrun_nano_usd


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the tightest of a request's caps leaves: now, and once every running request has ended for nothing."""

    cap_id: str
    now_nano_usd: int
    later_nano_usd: int


def cap_id(owner: str, per: Per, *, at_ms: int) -> str:
    """The id of the account that counts for an owner at a time, such as `key:…/day:2026-11-21`."""
    if per is Per.TOTAL:
        return f"{owner}/{per}"
    day = datetime.datetime.fromtimestamp(at_ms / 1000, tz=datetime.UTC)
    return f"{owner}/{per}:{day:%Y-%m-%d}" if per is Per.DAY else f"{owner}/{per}:{day:%Y-%m}"


def cap_of(owner: str, per: Per, amount_nano_usd: int, *, request_id: UUID) -> Cap:
    """The cap that binds a request: its id, a UUIDv7, says when it began."""
    return Cap(id=cap_id(owner, per, at_ms=unix_ms(request_id)), amount_nano_usd=amount_nano_usd)


def cap_reached(room: Room) -> TollbridgeError:
    """The refusal of a hold that does not fit under a cap."""
    owner, _, period = room.cap_id.rpartition("/")
    return TollbridgeError(
        Code.SPEND_CAP_REACHED,
        f"the spend cap of this {owner.partition(':')[0]} is reached",
        details={"affordable_nano_usd": str(max(0, room.now_nano_usd)), "cap": period},
    )


class CapRows:
    """The cap accounts of a working set, and which of them changed. `Books` tells it of every hold and charge."""

    def __init__(self, rows: Iterable[CapAccount] = ()) -> None:
        self.rows = {row.id: row for row in rows}
        self.changed: set[str] = set()

    def room(self, caps: Sequence[Cap]) -> Room | None:
        """What these caps leave; None without caps."""
        if not caps:
            return None
        left = {cap.id: cap.amount_nano_usd - self.rows[cap.id].paid_nano_usd for cap in caps}
        tightest = min(left, key=lambda each: (left[each] - self.rows[each].held_nano_usd, each))
        return Room(
            cap_id=tightest,
            now_nano_usd=left[tightest] - self.rows[tightest].held_nano_usd,
            later_nano_usd=min(left.values()),
        )

    def hold(self, caps: Sequence[Cap], amount_nano_usd: int) -> None:
        """Sets an amount aside that has room, and writes the caps down."""
        for cap in caps:
            row = self.rows[cap.id]
            held = row.held_nano_usd + amount_nano_usd
            self._put(dataclasses.replace(row, cap_nano_usd=cap.amount_nano_usd, held_nano_usd=held))

    def free(self, cap_ids: Sequence[str], amount_nano_usd: int) -> None:
        """Gives back what was held."""
        for each in cap_ids:
            row = self.rows[each]
            self._put(dataclasses.replace(row, held_nano_usd=row.held_nano_usd - amount_nano_usd))

    def spend(self, cap_ids: Sequence[str], *, captured_nano_usd: int, taken_nano_usd: int) -> None:
        """Counts what a charge took, of which `captured` was held."""
        for each in cap_ids:
            row = self.rows[each]
            held = row.held_nano_usd - captured_nano_usd
            spent = min(row.spent_nano_usd + taken_nano_usd, row.cap_nano_usd - held)
            self._put(
                dataclasses.replace(
                    row,
                    held_nano_usd=held,
                    spent_nano_usd=spent,
                    overrun_nano_usd=row.paid_nano_usd + taken_nano_usd - spent,
                )
            )

    def refund(self, cap_ids: Sequence[str], amount_nano_usd: int) -> None:
        """Takes back what a charge had counted."""
        for each in cap_ids:
            row = self.rows[each]
            overrun = max(0, row.overrun_nano_usd - amount_nano_usd)
            spent = row.paid_nano_usd - amount_nano_usd - overrun
            self._put(dataclasses.replace(row, spent_nano_usd=spent, overrun_nano_usd=overrun))

    def _put(self, row: CapAccount) -> None:
        self.rows[row.id] = row
        self.changed.add(row.id)
