"""Spend caps: what they leave, in which period a request counts, and that no order of events contradicts them."""

import datetime
from uuid import UUID

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7, uuid7_at
from services.billing.books import Books
from services.billing.holding import cap_wire
from services.billing.holding.caps import Cap, CapAccount, Per, cap_of
from services.billing.holding.holds import Hold, HoldKind
from services.billing.ledger import Transfer, Usage, UsageKind
from tollbridge.billing.v1 import billing_pb2 as pb

KEY = "key:018f-1"


def _at(text: str) -> UUID:
    return uuid7_at(int(datetime.datetime.fromisoformat(text).timestamp() * 1000))


@pytest.mark.parametrize(
    ("per", "began", "period"),
    [
        (Per.DAY, "2026-11-21T23:59:59.999+00:00", "day:2026-11-21"),
        (Per.DAY, "2026-11-22T00:00:00+00:00", "day:2026-11-22"),
        (Per.DAY, "2026-11-22T00:30:00+01:00", "day:2026-11-21"),
        (Per.MONTH, "2026-11-30T23:59:59.999+00:00", "month:2026-11"),
        (Per.MONTH, "2026-12-01T00:00:00+00:00", "month:2026-12"),
        (Per.TOTAL, "2026-12-01T00:00:00+00:00", "total"),
    ],
)
def test_a_request_counts_in_the_period_in_which_it_began(per: Per, began: str, period: str):
    """Days and months are UTC's, and begin at their first millisecond."""
    assert cap_of(KEY, per, 1, request_id=_at(began)).id == f"{KEY}/{period}"


def _books(credit: int, *caps: Cap) -> Books:
    books = Books(new_id=uuid7, caps=[CapAccount(id=cap.id, cap_nano_usd=cap.amount_nano_usd) for cap in caps])
    books.open("c", welcome_nano_usd=credit)
    return books


def _hold(amount: int) -> Hold:
    return Hold(
        id=uuid7(),
        customer_id="c",
        kind=HoldKind.LEASE,
        spender="s",
        amount_nano_usd=amount,
        stated_nano_usd=amount,
        granted_at_us=0,
        expires_at_us=10,
    )


def _charge(books: Books, hold: Hold, charge: int) -> Transfer:
    usage = Usage(
        request_id=uuid7(),
        kind=UsageKind.CHARGE,
        customer_id="c",
        hold_id=hold.id,
        closes_hold=True,
        charge_nano_usd=charge,
    )
    books.settle(usage)
    return books.transfers[-1]


def _seen(books: Books, cap: Cap) -> tuple[int, int, int, int]:
    row = books.caps.rows[cap.id]
    return row.cap_nano_usd, row.spent_nano_usd, row.held_nano_usd, row.overrun_nano_usd


def test_the_tightest_cap_decides_and_names_the_refusal():
    """Of key and customer the one with less room; what the other has left is not touched."""
    key, customer = Cap(id="key:k/day:2026-11-21", amount_nano_usd=50), Cap(id="customer:c/total", amount_nano_usd=30)
    books = _books(1000, key, customer)
    with pytest.raises(TollbridgeError) as caught:
        books.grant(_hold(31), caps=[key, customer])
    assert caught.value.code is Code.SPEND_CAP_REACHED
    assert caught.value.details == {"affordable_nano_usd": "30", "cap": "total"}
    assert "customer" in caught.value.message
    assert books.grant(_hold(31), least_nano_usd=10, caps=[key, customer]).amount_nano_usd == 30
    assert (_seen(books, key), _seen(books, customer)) == ((50, 0, 30, 0), (30, 0, 30, 0))


def test_a_customer_with_a_slash_in_their_id_can_have_a_cap():
    """Billing takes such ids everywhere; the refusal still names the cap's period."""
    asked = pb.SpendCap(owner="customer:team/a", per="day", amount_nano_usd=30)
    [cap] = cap_wire.caps_of([asked], request_id=uuid7())
    assert cap_wire.ids_of_now([asked]) == [cap.id]
    with pytest.raises(TollbridgeError) as caught:
        _books(1000, cap).grant(_hold(31), caps=[cap])
    assert caught.value.details["cap"] == cap.id.removeprefix("customer:team/a/")


def test_what_the_balance_lacks_is_no_matter_of_the_cap():
    """The tighter bound names the refusal."""
    cap = Cap(id="key:k/total", amount_nano_usd=50)
    books = _books(40, cap)
    with pytest.raises(TollbridgeError) as caught:
        books.grant(_hold(45), caps=[cap])
    assert caught.value.code is Code.INSUFFICIENT_CREDITS


def test_a_charge_moves_what_was_held_to_spent_and_frees_the_rest():
    """And a refund takes it out of the period in which its request began."""
    cap = Cap(id="key:k/total", amount_nano_usd=50)
    books = _books(1000, cap)
    charge = _charge(books, books.grant(_hold(40), caps=[cap]), 25)
    assert _seen(books, cap) == (50, 25, 0, 0)
    books.refund(charge, request_id=uuid7(), amount_nano_usd=10, reason="")
    assert _seen(books, cap) == (50, 15, 0, 0)


def test_usage_beyond_its_hold_is_charged_and_shows_as_overrun():
    """The truth is kept and the constraint too; what ran over is the first that a refund takes back."""
    cap = Cap(id="key:k/total", amount_nano_usd=50)
    books = _books(1000, cap)
    other = books.grant(_hold(20), caps=[cap])
    charge = _charge(books, books.grant(_hold(30), caps=[cap]), 45)
    assert _seen(books, cap) == (50, 30, 20, 15)
    books.release([other.id])
    with pytest.raises(TollbridgeError) as caught:
        books.grant(_hold(6), caps=[cap])
    assert caught.value.details["affordable_nano_usd"] == "5"
    books.refund(charge, request_id=uuid7(), amount_nano_usd=20, reason="")
    assert _seen(books, cap) == (50, 25, 0, 0)


def test_a_cap_lowered_below_what_is_spent_refuses_and_raised_again_grants():
    """Only a grant that fits writes the new cap down."""
    high, low = Cap(id="key:k/total", amount_nano_usd=50), Cap(id="key:k/total", amount_nano_usd=10)
    books = _books(1000, high)
    _charge(books, books.grant(_hold(40), caps=[high]), 40)
    with pytest.raises(TollbridgeError) as caught:
        books.grant(_hold(1), caps=[low])
    assert caught.value.details["affordable_nano_usd"] == "0"
    assert _seen(books, low) == (50, 40, 0, 0)
    books.grant(_hold(10), caps=[high])
    assert _seen(books, high) == (50, 40, 10, 0)
