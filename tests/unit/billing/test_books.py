"""The pure ledger keeps its promises whatever happens in whatever order."""

from uuid import UUID

import msgspec.structs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from pricing.charge import charge_nano_usd
from pricing.prices import PriceVersion, Rates
from pricing.tokens import Tokens, Units
from services.billing.books import Books
from services.billing.holding.holds import Hold, HoldKind, HoldState
from services.billing.ledger import MAX_AMOUNT, House, Poison, Usage, UsageKind
from tests.unit.billing.lengths import brief
from tests.unit.billing.machine import LedgerMachine, shuffled_books

TestPureLedger = LedgerMachine.TestCase
TestPureLedger.settings = brief(examples=60, steps=30)


def _hold(customer_id: str, amount: int, request_id: UUID | None = None) -> Hold:
    return Hold(
        id=uuid7(),
        customer_id=customer_id,
        kind=HoldKind.LEASE,
        spender="s",
        amount_nano_usd=amount,
        stated_nano_usd=amount,
        request_id=request_id,
        granted_at_us=0,
        expires_at_us=10,
    )


def _charge(hold: Hold, charge: int, *, closes: bool = True) -> Usage:
    return Usage(
        request_id=uuid7(),
        kind=UsageKind.CHARGE,
        customer_id=hold.customer_id,
        hold_id=hold.id,
        closes_hold=closes,
        charge_nano_usd=charge,
    )


def _books(credit: int) -> Books:
    books = Books(new_id=uuid7)
    books.open("c", welcome_nano_usd=credit)
    return books


@given(
    requests=st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), min_size=1, max_size=12),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_any_order_and_duplication_gives_the_same_balances(requests: list[tuple[int, int]], seed: int):
    """I7: what fits its holds is charged alike, however the bus delivers it."""
    books = _books(sum(amount for amount, _ in requests))
    holds = [books.grant(_hold("c", amount)) for amount, _ in requests]
    usages = [
        _charge(hold, min(hold.amount_nano_usd, 1 + cost)) for hold, (_, cost) in zip(holds, requests, strict=True)
    ]
    start = Books(new_id=uuid7, accounts=books.accounts.values(), holds=books.holds.values())
    for usage in usages:
        books.settle(usage)
    other = shuffled_books(start, usages, seed)
    assert other.accounts == books.accounts
    assert other.holds == books.holds


def test_the_charge_that_the_readme_explains_is_made_so():
    """Its numbers, in nano-USD: 10 USD, a hold of 0.02, and 1,000 + 200 tokens at 2.50 and 10 a million, times 1.2."""
    rates = Rates(input=2_500_000_000, output=10_000_000_000)
    price = PriceVersion(rates=rates, cost=rates, markup_ppm=1_200_000)
    charge = charge_nano_usd(Tokens(input=1_000, output=200), Units(), price)
    books = _books(10_000_000_000)
    hold = books.grant(_hold("c", 20_000_000))
    steps = [books.accounts["c"]]
    for closes in (False, True):  # what is captured, and what the same event releases besides
        after = Books(new_id=uuid7, accounts=books.accounts.values(), holds=books.holds.values())
        after.settle(_charge(hold, charge, closes=closes))
        steps.append(after.accounts["c"])
        [transfer] = after.transfers
        assert (transfer.debit, transfer.credit, transfer.amount_nano_usd) == ("credits:c", "revenue", 5_400_000)
    assert [(step.posted_nano_usd, step.held_nano_usd) for step in steps] == [
        (10_000_000_000, 20_000_000),
        (9_994_600_000, 14_600_000),
        (9_994_600_000, 0),
    ]


def test_a_charge_beyond_its_hold_takes_what_is_available_and_the_rest_is_our_loss():
    """Two legs of one event, and the customer ends at zero, not below."""
    books = _books(100)
    hold = books.grant(_hold("c", 60))
    settled = books.settle(_charge(hold, 130))
    assert (settled.taken_nano_usd, settled.overage_nano_usd) == (100, 30)
    assert books.accounts["c"].posted_nano_usd == 0
    assert [(it.debit, it.amount_nano_usd, it.leg) for it in books.transfers[-2:]] == [
        ("credits:c", 100, 0),
        (House.OVERAGE_LOSS, 30, 1),
    ]


def test_a_void_releases_the_hold_that_was_made_for_it():
    """A request that never reached a provider costs nothing and holds nothing."""
    books = _books(100)
    request_id = uuid7()
    hold = books.grant(_hold("c", 60, request_id))
    usage = Usage(
        request_id=request_id,
        kind=UsageKind.VOID,
        customer_id="c",
        hold_id=hold.id,
        closes_hold=False,
        charge_nano_usd=0,
    )
    books.settle(usage)
    assert books.accounts["c"].available_nano_usd == 100
    assert books.holds[hold.id].state is HoldState.SETTLED


def test_a_charge_after_a_void_of_the_same_request_is_still_charged():
    """A charge supersedes a void: the replayed spool knew less than the event that was under way."""
    books = _books(100)
    hold = books.grant(_hold("c", 60))
    charge = _charge(hold, 40)
    books.settle(
        Usage(
            request_id=charge.request_id,
            kind=UsageKind.VOID,
            customer_id="c",
            hold_id=hold.id,
            closes_hold=True,
            charge_nano_usd=0,
        )
    )
    books.settle(charge)
    assert books.accounts["c"].posted_nano_usd == 60


def test_a_lapsed_lease_keeps_what_its_spender_had_not_free():
    """Expiry frees amount − captured − (open + spent), and the grace's end frees the rest."""
    books = _books(100)
    hold = books.grant(_hold("c", 60))
    books.settle(_charge(hold, 10, closes=False))
    books.holds[hold.id] = _stated(books.holds[hold.id], 20)
    lapsed = books.expire(hold.id, now_us=10, settle_grace_s=1)
    assert (lapsed.lapsed, lapsed.remaining_nano_usd, lapsed.state) == (True, 20, HoldState.OPEN)
    assert books.expire(hold.id, now_us=11, settle_grace_s=1) == lapsed
    ended = books.expire(hold.id, now_us=lapsed.expires_at_us, settle_grace_s=1)
    assert (ended.state, books.accounts["c"].held_nano_usd) == (HoldState.EXPIRED, 0)


def test_a_pinned_hold_outlives_everything():
    """A dead letter keeps its hold until an operator resolves it, but for what its spender knows to be for others."""
    books = _books(100)
    hold = books.grant(_hold("c", 60))
    books.pin(hold.id, uuid7())
    books.release([hold.id])
    books.expire(hold.id, now_us=10**9, settle_grace_s=0)
    assert books.accounts["c"].held_nano_usd == 60
    books.give_back(hold.id, 10)
    assert books.accounts["c"].held_nano_usd == 50


def test_the_rest_of_a_refunded_charge_is_never_refunded():
    """A request is refunded once, also when the first refund was a part."""
    books = _books(100)
    charge = _charge(books.grant(_hold("c", 60)), 50)
    books.settle(charge)
    paid = books.transfers[-1]
    books.refund(paid, request_id=charge.request_id, amount_nano_usd=20, reason="")
    with pytest.raises(TollbridgeError) as caught:
        books.refund(paid, request_id=charge.request_id, amount_nano_usd=30, reason="")
    assert caught.value.code is Code.ALREADY_REFUNDED
    assert books.accounts["c"].posted_nano_usd == 70


@pytest.mark.parametrize("charge", [-1, MAX_AMOUNT + 1, 2**63])
def test_an_impossible_charge_is_poison(charge: int):
    """I10: refused, never wrapped or clipped."""
    books = _books(100)
    with pytest.raises(Poison):
        books.settle(_charge(books.grant(_hold("c", 60)), charge))
    assert books.accounts["c"].posted_nano_usd == 100


def test_what_can_be_taken_away_is_what_is_available():
    """A correction never reaches into what is held."""
    books = _books(100)
    books.grant(_hold("c", 60))
    with pytest.raises(TollbridgeError) as caught:
        books.adjust("c", -41, event_id="adjustment:1", reason="")
    assert caught.value.details == {"affordable_nano_usd": "40", "balance_nano_usd": "100"}
    books.adjust("c", -40, event_id="adjustment:1", reason="")
    assert books.accounts["c"].available_nano_usd == 0


def _stated(hold: Hold, unfinished: int) -> Hold:
    return msgspec.structs.replace(hold, stated_nano_usd=unfinished)
