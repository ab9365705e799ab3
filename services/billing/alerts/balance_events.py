"""Balance events: a customer's balance fell below what is low, or to what is next to nothing. Pure.

They follow from the transfers themselves, in the order of the customer's versions: a transfer that takes the balance
from above a line to below it is the event, so it is as durable as the transfer and leaves by the same outbox. It comes
once for each time the balance falls through the line, and again only after money came in that lifted it above. Who
starts below a line hears nothing.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from uuid import UUID, uuid5

import msgspec


class Level(enum.StrEnum):
    """Which line was crossed."""

    LOW = "low"
    EXHAUSTED = "exhausted"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one transfer did to a customer's balance, in nano-USD. `change_nano_usd` is negative for a charge.

    `version` numbers the customer's transfers in their order.
    """

    transfer_id: UUID
    customer_id: str
    version: int
    change_nano_usd: int
    balance_nano_usd: int
    at_us: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Where the events lie, in nano-USD; 0 as `low_nano_usd` is never."""

    low_nano_usd: int
    exhausted_nano_usd: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BalanceEvent:
    """One crossing. Its id is the same whenever it is found again."""

    id: UUID
    level: Level
    step: Step
    line_nano_usd: int

    @property
    def sequence(self) -> int:
        """Greater for what happened to the customer's balance later; what one charge does is low, then exhausted."""
        return 2 * self.step.version + (self.level is Level.EXHAUSTED)


def found(steps: Iterable[Step], lines: Mapping[str, Lines], *, otherwise: Lines) -> list[BalanceEvent]:
    """The crossings in these steps; `lines` are those of customers who have their own."""
    events = []
    for step in steps:
        own = lines.get(step.customer_id, otherwise)
        before, after = step.balance_nano_usd - step.change_nano_usd, step.balance_nano_usd
        if before >= own.low_nano_usd > after:
            events.append(_event(Level.LOW, step, own.low_nano_usd))
        if before > own.exhausted_nano_usd >= after:
            events.append(_event(Level.EXHAUSTED, step, own.exhausted_nano_usd))
    return events


def _event(level: Level, step: Step, line_nano_usd: int) -> BalanceEvent:
    return BalanceEvent(id=uuid5(step.transfer_id, level), level=level, step=step, line_nano_usd=line_nano_usd)
