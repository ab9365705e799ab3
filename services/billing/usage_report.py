"""Usage reports: what was used and paid in a range of time, by model, key, day or customer, from the request log.

A request counts where it began, and its charge is what its customer paid after refunds, so that the sums are those of
the receipts. Reads only, a bounded range at a time; what the log no longer keeps is in no report.
"""

import dataclasses
import enum
from uuid import UUID

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7_at
from services.billing import usage_store

MAX_DAYS = 366
_DAY_US = 86_400_000_000
_LATEST_US = 4_102_444_800_000_000
DEFAULT_LIMIT = 50
MAX_LIMIT = 1000


class Group(enum.StrEnum):
    """What one sum is of."""

    MODEL = "model"
    KEY = "key"
    DAY = "day"
    CUSTOMER = "customer"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be summed; empty texts are no condition.

    Times in microseconds since the epoch, `until_us` excluded. `after` is the group before the first one.
    """

    customer_id: str
    key_id: str
    model: str
    from_us: int
    until_us: int
    group_by: Group
    after: str | None

    def bounds(self) -> tuple[UUID, UUID]:
        """The first request id of the range and the first after it. Raises INVALID_REQUEST."""
        if not 0 <= self.from_us < self.until_us <= _LATEST_US:
            raise _invalid("from", "must be before `to`")
        if self.until_us - self.from_us > MAX_DAYS * _DAY_US:
            raise _invalid("to", f"is more than {MAX_DAYS} days after `from`")
        return uuid7_at(_rounded_up_ms(self.from_us)), uuid7_at(_rounded_up_ms(self.until_us))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What one group used and paid, in nano-USD."""

    group: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    charge_nano_usd: int


class UsageReport:
    """Answers questions; each answer is as committed now."""

    def __init__(self, *, pool: db.Pool) -> None:
        self._pool = pool

    async def page(self, question: Question, *, limit: int) -> tuple[list[Sum], bool]:
        """Some sums in the order of their groups, and whether more follow. Raises INVALID_REQUEST, UNAVAILABLE."""
        size = min(limit, MAX_LIMIT) if limit > 0 else DEFAULT_LIMIT
        first, end = question.bounds()
        async with db.transaction(self._pool) as connection:
            rows = await usage_store.sums(
                connection,
                group_by=question.group_by,
                first=first,
                end=end,
                equal={
                    "customer_id": question.customer_id,
                    "key_id": question.key_id,
                    "model": question.model,
                },
                after=question.after,
                limit=size + 1,
            )
        found = [
            Sum(
                group=group, requests=requests, prompt_tokens=prompt, completion_tokens=completion, charge_nano_usd=paid
            )
            for group, requests, prompt, completion, paid in rows
        ]
        return found[:size], len(found) > size


def _rounded_up_ms(microseconds: int) -> int:
    return -(-microseconds // 1000)


def _invalid(name: str, why: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{name} {why}", details={"param": name})
