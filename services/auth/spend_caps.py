"""Spend caps of keys and customers: kept here, told with each Authorize, enforced by billing. Pure."""

import dataclasses
from typing import Literal, get_args

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = get_args(Period)
MAX_CAP_NANO_USD = 1 << 53


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpendCap:
    """At most so much in a period."""

    amount_nano_usd: int
    per: Period

    def __post_init__(self) -> None:
        if not 0 < self.amount_nano_usd <= MAX_CAP_NANO_USD:
            raise ValueError("spend_cap.amount is out of range")
        if self.per not in PERIODS:
            raise ValueError("spend_cap.per is day, month or total")


class Lifted:
    """In a change of a customer: the cap goes."""


LIFTED = Lifted()
