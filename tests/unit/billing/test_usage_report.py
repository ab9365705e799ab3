"""Usage reports on real PostgreSQL: the same sums as the log's lines, whatever became of the requests since."""

import dataclasses
import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.ids import unix_ms, uuid7, uuid7_at
from services.billing.ledger import Usage, UsageKind
from services.billing.receipts.usage_report import MAX_DAYS, Group, Question, Sum, UsageReport
from tests.unit.billing.bank import PostgresBank, event
from tollbridge.usage.v1 import usage_pb2

DAY_MS = 86_400_000
NOW_MS = unix_ms(uuid7())
TODAY_MS = NOW_MS // DAY_MS * DAY_MS


class Books:
    """A customer's requests, and questions about them."""

    def __init__(self, bank: PostgresBank) -> None:
        self.bank, self.customer = bank, f"customer-{uuid4()}"
        self.report = UsageReport(pool=bank.pool)
        assert not bank.open(self.customer, 1_000_000)

    def request(
        self,
        charge: int,
        *,
        at_ms: int = NOW_MS,
        kind: UsageKind = UsageKind.CHARGE,
        request_id: UUID | None = None,
        **more: Any,
    ) -> UUID:
        usage = Usage(
            request_id=request_id or UUID(int=uuid7_at(at_ms).int | uuid4().int & (1 << 62) - 1),
            kind=kind,
            customer_id=self.customer,
            hold_id=None,
            closes_hold=False,
            charge_nano_usd=charge,
        )
        fields = {"tokens": usage_pb2.Tokens(input=10, cached_input=1, output=5), **more}
        self.bank.run(self.bank.settlement.apply([event(usage, **fields)]))
        return usage.request_id

    def ask(self, group_by: Group, *, limit: int = 50, **changes: Any) -> tuple[list[Sum], bool]:
        question = Question(
            customer_id=self.customer,
            key_id="",
            model="",
            from_us=(TODAY_MS - 3 * DAY_MS) * 1000,
            until_us=(TODAY_MS + DAY_MS) * 1000,
            group_by=group_by,
            after=None,
        )
        return self.bank.run(self.report.page(dataclasses.replace(question, **changes), limit=limit))


@pytest.fixture
def books(bank: PostgresBank) -> Books:
    return Books(bank)


def _sum(group: str, requests: int, charge: int) -> Sum:
    return Sum(
        group=group,
        requests=requests,
        prompt_tokens=11 * requests,
        completion_tokens=5 * requests,
        charge_nano_usd=charge,
    )


def test_sums_are_by_model_and_by_key_and_by_day_of_the_request(books: Books):
    """Each request is in one group of each kind, on the day on which it began."""
    books.request(100, model="b", key_id="k1")
    books.request(50, model="a", key_id="k1", at_ms=TODAY_MS - 1)
    books.request(7, model="b", at_ms=TODAY_MS)
    assert books.ask(Group.MODEL) == ([_sum("a", 1, 50), _sum("b", 2, 107)], False)
    assert books.ask(Group.KEY) == ([_sum("", 1, 7), _sum("k1", 2, 150)], False)
    days, _ = books.ask(Group.DAY)
    assert [(each.requests, each.charge_nano_usd) for each in days] == [(1, 50), (2, 107)]
    assert [len(each.group) for each in days] == [10, 10]
    assert days[0].group < days[1].group
    assert books.ask(Group.CUSTOMER) == ([_sum(books.customer, 3, 157)], False)


def test_the_range_has_its_beginning_and_not_its_end(books: Books):
    """Reports of days that follow each other count each request once."""
    books.request(1, at_ms=TODAY_MS)
    yesterday, today = ((TODAY_MS - DAY_MS) * 1000, TODAY_MS * 1000), (TODAY_MS * 1000, (TODAY_MS + DAY_MS) * 1000)
    assert books.ask(Group.MODEL, from_us=yesterday[0], until_us=yesterday[1]) == ([], False)
    assert books.ask(Group.MODEL, from_us=today[0], until_us=today[1]) == ([_sum("m", 1, 1)], False)


def test_sums_are_net_of_refunds_and_count_a_request_once(books: Books):
    """A refund, and a void that a charge superseded, are no requests of their own; a void costs nothing."""
    refunded = books.request(100)
    assert not books.bank.refund(refunded, 30)
    superseded = uuid7()
    books.request(0, kind=UsageKind.VOID, request_id=superseded)
    books.request(20, request_id=superseded)
    books.request(0, kind=UsageKind.VOID)
    assert books.ask(Group.MODEL) == ([_sum("m", 3, 90)], False)


def test_pages_follow_each_other_without_gaps_also_after_an_empty_group(books: Books):
    """Requests without a key are a group too."""
    for key in ("", "k1", "k2"):
        books.request(1, key_id=key)
    seen, after = [], None
    for _ in range(3):
        found, more = books.ask(Group.KEY, limit=1, after=after)
        seen += [each.group for each in found]
        after = found[-1].group
    assert (seen, more) == (["", "k1", "k2"], False)


def test_pages_of_days_follow_each_other(books: Books):
    """A day without requests is left out; the page after the last is empty."""
    for days_ago in (3, 1, 0):
        books.request(1, at_ms=TODAY_MS - days_ago * DAY_MS)
    first, more = books.ask(Group.DAY, limit=2)
    assert (len(first), more) == (2, True)
    second, more = books.ask(Group.DAY, limit=2, after=first[-1].group)
    assert (len(second), more) == (1, False)
    assert books.ask(Group.DAY, after=second[-1].group) == ([], False)
    assert f"{datetime.datetime.fromtimestamp(TODAY_MS // 1000, tz=datetime.UTC):%Y-%m-%d}" == second[0].group


def test_conditions_and_other_customers(books: Books):
    """Only what was asked for, and nothing of anybody else."""
    books.request(1, model="a", key_id="k1")
    books.request(2, model="a", key_id="k2")
    Books(books.bank).request(1_000, model="a")
    assert books.ask(Group.MODEL, key_id="k2") == ([_sum("a", 1, 2)], False)
    assert books.ask(Group.KEY, model="none") == ([], False)


@pytest.mark.parametrize(
    ("from_us", "until_us", "param"),
    [(5, 5, "from"), (6, 5, "from"), (-1, 5, "from"), (0, 1 << 62, "from"), (0, (MAX_DAYS * DAY_MS + 1) * 1000, "to")],
)
def test_a_range_that_is_none_or_too_long_is_refused(books: Books, from_us: int, until_us: int, param: str):
    """Before anything is read."""
    with pytest.raises(TollbridgeError) as caught:
        books.ask(Group.DAY, from_us=from_us, until_us=until_us)
    assert (caught.value.code, caught.value.details["param"]) == (Code.INVALID_REQUEST, param)
