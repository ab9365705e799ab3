"""Usage reports: what was used and paid in a range of time, by model, key, day or customer, from the request log.

A request counts where it began, and its charge is what its customer paid after refunds, so that the sums are those of
the receipts. Reads only, a bounded range at a time; what the log no longer keeps is in no report.
"""

import dataclasses
import datetime
import enum
from uuid import UUID

from chassis import db
from chassis.db import Connection
from chassis.errors import Code, TollbridgeError
from chassis.ids import unix_ms, uuid7_at
from services.billing.receipts import usage_store

MAX_DAYS = 366
DAY_MS = 86_400_000
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
        if self.until_us - self.from_us > MAX_DAYS * DAY_MS * 1000:
            raise _invalid("to", f"is more than {MAX_DAYS} days after `from`")
        return uuid7_at(_rounded_up_ms(self.from_us)), uuid7_at(_rounded_up_ms(self.until_us))

    def equal(self) -> dict[str, str]:
        """What the log's columns must be."""
        return {"customer_id": self.customer_id, "key_id": self.key_id, "model": self.model}


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
            if question.group_by is Group.DAY:
                found = await _by_day(connection, question, first=first, end=end, limit=size + 1)
            else:
                found = await usage_store.sums(
                    connection,
                    group_by=question.group_by,
                    first=first,
                    end=end,
                    equal=question.equal(),
                    after=question.after,
                    limit=size + 1,
                )
        return [_sum(group, numbers) for group, numbers in found[:size]], len(found) > size


async def _by_day(
    connection: Connection, question: Question, *, first: UUID, end: UUID, limit: int
) -> list[tuple[str, usage_store.Numbers]]:
    begin_ms = unix_ms(first) // DAY_MS * DAY_MS
    if question.after is not None:
        begin_ms = max(begin_ms, _day_ms(question.after) + DAY_MS)
    days = [uuid7_at(ms) for ms in range(begin_ms, unix_ms(end), DAY_MS)]
    if not days:
        return []
    found = await usage_store.sums_by_day(
        connection, days=days, first=max(first, days[0]), end=end, equal=question.equal(), limit=limit
    )
    return [(_day_text(begin_ms + place * DAY_MS), numbers) for place, numbers in found]


def _day_text(ms: int) -> str:
    return f"{datetime.datetime.fromtimestamp(ms // 1000, tz=datetime.UTC):%Y-%m-%d}"


def _day_ms(text: str) -> int:
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        raise _invalid("after", "must be a day") from None
    return (day - datetime.date(1970, 1, 1)).days * DAY_MS


def _sum(group: str, numbers: usage_store.Numbers) -> Sum:
    requests, prompt, completion, paid = numbers
    return Sum(group=group, requests=requests, prompt_tokens=prompt, completion_tokens=completion, charge_nano_usd=paid)


def _rounded_up_ms(microseconds: int) -> int:
    return -(-microseconds // 1000)


def _invalid(name: str, why: str) -> TollbridgeError:
    return TollbridgeError(Code.INVALID_REQUEST, f"{name} {why}", details={"param": name})
