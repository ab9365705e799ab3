"""What a key may do at most: its customer's plan, with the key's own overrides. Pure."""

import dataclasses
from typing import Literal

Scope = Literal["key", "customer"]

UNLIMITED = 0
MAX_LIMIT = 10**12
"""Above this a limit limits nothing and is a mistake."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Never to be exceeded; 0 is unlimited in a plan, and *as in the plan* in a key's overrides.

    `scope` says who shares them: every key by itself, or all keys of the customer.
    """

    requests_per_minute: int = UNLIMITED
    tokens_per_minute: int = UNLIMITED
    concurrent: int = UNLIMITED
    scope: Scope = "key"

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
            if not 0 <= getattr(self, name) <= MAX_LIMIT:
                raise ValueError(f"{name} is out of range")


AS_THE_PLAN = Limits()
"""Overrides nothing."""
WITHOUT_PLAN = Limits(requests_per_minute=60)
"""For customers without a plan where the config names no default plan: enough to try, too little to harm."""


def effective(*, plan: Limits, overrides: Limits, may_raise: bool) -> Limits:
    """The limits that hold for a key, or for all keys of its customer where the plan's are shared.

    An override lowers the plan's number; it raises it only on a key that an operator made (`may_raise`). What a
    customer's keys share can't be changed by one of them: such a key has its `own` beside it.
    """
    if plan.scope == "customer":
        return plan

    def number(planned: int, own: int) -> int:
        if not own or not planned or may_raise:
            return own or planned
        return min(own, planned)

    return Limits(
        requests_per_minute=number(plan.requests_per_minute, overrides.requests_per_minute),
        tokens_per_minute=number(plan.tokens_per_minute, overrides.tokens_per_minute),
        concurrent=number(plan.concurrent, overrides.concurrent),
    )


def own(*, plan: Limits, overrides: Limits) -> Limits:
    """What limits a key by itself, besides what it shares; only numbers that can be reached before the shared ones."""
    if plan.scope != "customer":
        return AS_THE_PLAN

    def number(shared: int, own: int) -> int:
        return own if not shared or own < shared else UNLIMITED

    return Limits(
        requests_per_minute=number(plan.requests_per_minute, overrides.requests_per_minute),
        tokens_per_minute=number(plan.tokens_per_minute, overrides.tokens_per_minute),
        concurrent=number(plan.concurrent, overrides.concurrent),
    )
