"""Whatever order payments, reversals, holds and charges come in: nothing is lost, and nobody goes below zero."""

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from services.billing.books import Books
from services.billing.holding.holds import Hold, HoldKind
from services.billing.ledger import House, Usage, UsageKind

STEPS = st.lists(
    st.tuples(st.sampled_from(["pay", "reverse", "hold", "charge", "release"]), st.integers(1, 1000)), max_size=40
)


def step(books: Books, what: str, amount: int, *, number: int, paid: list[int], open_holds: list[UUID]) -> None:
    """One thing that happens to the customer."""
    if what == "pay":
        books.pay_in("c", amount, source=House.CLEARING_STRIPE, event_id=f"payment:{number}")
        paid.append(amount)
    elif what == "reverse" and paid:
        books.reverse_payment("c", paid.pop(), into=House.CLEARING_STRIPE, event_id=f"reversal:{number}")
    elif what == "hold" and books.account("c").available_nano_usd >= amount:
        hold = Hold(
            id=uuid4(),
            customer_id="c",
            kind=HoldKind.LEASE,
            spender="s",
            amount_nano_usd=amount,
            stated_nano_usd=amount,
            granted_at_us=0,
            expires_at_us=1,
        )
        open_holds.append(books.grant(hold).id)
    elif what == "charge" and open_holds:
        usage = Usage(
            request_id=uuid4(),
            kind=UsageKind.CHARGE,
            customer_id="c",
            hold_id=open_holds.pop(),
            closes_hold=True,
            charge_nano_usd=amount,
        )
        books.settle(usage)
    elif what == "release" and open_holds:
        books.release([open_holds.pop()])


@given(STEPS)
def test_payments_and_reversals_keep_the_books(steps: list[tuple[str, int]]):
    """All accounts sum to zero, the chain has no gap, posted is what moved, and what is available is never negative."""
    books, paid, open_holds = Books(new_id=uuid4), [], []
    books.open("c", welcome_nano_usd=0)
    for number, (what, amount) in enumerate(steps):
        step(books, what, amount, number=number, paid=paid, open_holds=open_holds)
        account = books.account("c")
        assert account.available_nano_usd >= 0
        assert account.credited_nano_usd >= account.used_nano_usd >= 0
    balance, sums = 0, {}
    for transfer in books.transfers:
        for name, sign in ((transfer.debit, -1), (transfer.credit, 1)):
            sums[name] = sums.get(name, 0) + sign * transfer.amount_nano_usd
    mine = [transfer for transfer in books.transfers if transfer.customer_id == "c"]
    for position, transfer in enumerate(mine, 1):
        balance += transfer.amount_nano_usd if transfer.credit == "credits:c" else -transfer.amount_nano_usd
        assert (transfer.version, transfer.balance_after_nano_usd) == (position, balance)
    assert balance == books.account("c").posted_nano_usd == sums.get("credits:c", 0)
    assert sum(sums.values()) == 0
    assert -sums.get("clearing:stripe", 0) == sum(paid)
