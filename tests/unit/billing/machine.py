"""The state machine of the ledger: any order of everything, and after each step the invariants of money.md."""

import random
from collections import Counter
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from chassis.ids import uuid7
from services.billing.books import Books
from services.billing.holding.caps import Per, cap_of
from services.billing.holding.holds import HoldState
from services.billing.ledger import MAX_AMOUNT, House, Transfer, TransferKind, Usage, UsageKind, credits_account
from tests.unit.billing.bank import Bank, ModelBank

AMOUNTS = st.one_of(st.integers(1, 20), st.integers(1, 10**6))
CAPS = st.tuples(st.sampled_from(list(Per)), st.one_of(st.integers(1, 60), st.integers(1, 10**6)))


class LedgerMachine(RuleBasedStateMachine):
    """Drives the model, and beside it whatever `make_other` makes; both must agree after each step."""

    customers = Bundle("customers")
    holds = Bundle("holds")
    usages = Bundle("usages")

    def make_other(self) -> Bank | None:
        """The bank to compare with."""
        return None

    @initialize()
    def begin(self) -> None:
        self.model = ModelBank()
        self.other = self.make_other()
        self.resolved: dict[UUID, object] = {}

    def both(self, method: str, *args: object, **also: object) -> str:
        answer: str = getattr(self.model, method)(*args, **also)
        if self.other is not None:
            assert getattr(self.other, method)(*args, **also) == answer
        return answer

    @rule(target=customers, welcome=st.integers(0, 100))
    def opens(self, welcome: int) -> str:
        customer_id = f"customer-{uuid4()}"
        self.both("open", customer_id, welcome)
        return customer_id

    @rule(customer_id=customers, amount=AMOUNTS, sign=st.sampled_from([1, 1, 1, -1]))
    def adjusts(self, customer_id: str, amount: int, sign: int) -> None:
        request_id = str(uuid4())
        self.both("adjust", customer_id, sign * amount, request_id)
        self.both("adjust", customer_id, sign * amount, request_id)

    @rule(target=holds, customer_id=customers, amount=AMOUNTS, least=st.sampled_from([0, 0, 1, 5]))
    def grants(self, customer_id: str, amount: int, least: int) -> UUID | None:
        hold_id = uuid7()
        asked = (hold_id, customer_id, amount, min(least, amount), uuid7())
        refused = self.both("grant", *asked)
        if refused:
            return None
        assert not self.both("grant", *asked)
        return hold_id

    @rule(
        target=holds,
        customer_id=customers,
        amount=AMOUNTS,
        least=st.sampled_from([0, 1, 5]),
        key_cap=CAPS,
        customer_cap=st.none() | CAPS,
        days_ago=st.sampled_from([0, 0, 1]),
    )
    def grants_under_caps(
        self,
        *,
        customer_id: str,
        amount: int,
        least: int,
        key_cap: tuple[Per, int],
        customer_cap: tuple[Per, int] | None,
        days_ago: int,
    ) -> UUID | None:
        hold_id, now = uuid7(), uuid7()
        request_id = UUID(int=now.int - (days_ago * 86_400_000 << 80))
        asked = {f"key:{customer_id}": key_cap, f"customer:{customer_id}": customer_cap}
        caps = [cap_of(owner, cap[0], cap[1], request_id=request_id) for owner, cap in asked.items() if cap is not None]
        refused = self.both("grant", hold_id, customer_id, amount, min(least, amount), request_id, caps=caps)
        return None if refused else hold_id

    @rule(
        target=usages,
        customer_id=customers,
        hold_id=holds,
        held=st.integers(0, 3).map(bool),
        charge=AMOUNTS,
        closes=st.booleans(),
        kind=st.sampled_from([UsageKind.CHARGE, UsageKind.CHARGE, UsageKind.VOID]),
    )
    def request_ends(
        self, *, customer_id: str, hold_id: UUID | None, held: bool, charge: int, closes: bool, kind: UsageKind
    ) -> Usage:
        hold_id = hold_id if held else None
        hold = self.model.books.holds.get(hold_id) if hold_id else None
        return Usage(
            request_id=(hold.request_id if hold else None) or uuid7(),
            kind=kind,
            customer_id=hold.customer_id if hold else customer_id,
            hold_id=hold_id,
            closes_hold=closes,
            charge_nano_usd=charge if kind is UsageKind.CHARGE else 0,
        )

    @precondition(lambda self: bool(self.bundles.get("usages")))  # a list of what is not there yet is thrown away
    @rule(events=st.lists(usages, min_size=1, max_size=6))
    def applies(self, events: list[Usage]) -> None:
        self.both("settle", events)

    @rule(event=usages, customer_id=customers)
    def applies_a_stranger(self, event: Usage, customer_id: str) -> None:
        """An event that names another customer's hold moves nothing."""
        if event.customer_id == customer_id or not event.hold_id:
            return
        fake = Usage(
            request_id=uuid7(),
            kind=UsageKind.CHARGE,
            customer_id=customer_id,
            hold_id=event.hold_id,
            closes_hold=True,
            charge_nano_usd=1,
        )
        before = self.model.account(customer_id)
        self.both("settle", [fake])
        assert self.model.account(customer_id) == before

    @rule(customer_id=customers, hold_id=holds, charge=st.sampled_from([-1, -(2**63), MAX_AMOUNT + 1, 2**63 - 1]))
    def applies_the_impossible(self, customer_id: str, hold_id: UUID | None, charge: int) -> None:
        """I10: refused, never wrapped; the hold that it names is kept for an operator."""
        hold = self.model.books.holds[hold_id] if hold_id else None
        customer_id = hold.customer_id if hold else customer_id
        before = self.model.account(customer_id)
        impossible = Usage(
            request_id=uuid7(),
            kind=UsageKind.CHARGE,
            customer_id=customer_id,
            hold_id=hold_id,
            closes_hold=True,
            charge_nano_usd=charge,
        )
        self.both("settle", [impossible])
        assert self.model.account(customer_id) == before

    @rule(hold_id=holds, amount=AMOUNTS, closes=st.booleans())
    def gives_back(self, hold_id: UUID | None, amount: int, closes: bool) -> None:
        if hold_id:
            self.both("give_back", hold_id, amount, closes)

    @rule(hold_id=holds, unfinished=st.integers(0, 30))
    def states(self, hold_id: UUID | None, unfinished: int) -> None:
        if hold_id:
            self.both("state", {hold_id: unfinished})

    @rule(hold_id=holds)
    def expires(self, hold_id: UUID | None) -> None:
        if hold_id:
            self.both("expire", hold_id)

    @rule(event=usages, part=st.sampled_from([0, 1, 5, 10**7]))
    def refunds(self, event: Usage, part: int) -> None:
        if (event.request_id, UsageKind.CHARGE) in self.model.books.applied:
            self.both("refund", event.request_id, part)

    @invariant()
    def all_accounts_sum_to_zero(self) -> None:
        """I1."""
        assert sum(_balances(self.model.books.transfers).values()) == 0

    @invariant()
    def chains_have_no_gap(self) -> None:
        """I2."""
        for customer_id, account in self.model.books.accounts.items():
            links = [it for it in self.model.books.transfers if it.customer_id == customer_id]
            assert [link.version for link in links] == list(range(1, account.version + 1))
            balance = 0
            for link in links:
                balance += (
                    link.amount_nano_usd if link.credit == credits_account(customer_id) else -link.amount_nano_usd
                )
                assert link.balance_after_nano_usd == balance
            assert account.posted_nano_usd == balance

    @invariant()
    def held_is_what_open_holds_hold(self) -> None:
        """I3 and I4."""
        held: Counter[str] = Counter()
        for hold in self.model.books.holds.values():
            held[hold.customer_id] += hold.remaining_nano_usd
            assert hold.is_open or hold.remaining_nano_usd == 0
        for account in self.model.books.accounts.values():
            assert account.held_nano_usd == held[account.customer_id]
            assert account.available_nano_usd >= 0

    @invariant()
    def caps_are_kept_and_are_sums(self) -> None:
        """What is spent and held fits, and is what the holds and charges that count in it add up to."""
        paid: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for it in self.model.books.transfers:
            for cap_id in it.cap_ids:
                paid[cap_id] += it.amount_nano_usd if it.kind is TransferKind.CHARGE else -it.amount_nano_usd
        for hold in self.model.books.holds.values():
            for cap_id in hold.cap_ids:
                held[cap_id] += hold.remaining_nano_usd
        for row in self.model.books.caps.rows.values():
            assert row.spent_nano_usd + row.held_nano_usd <= row.cap_nano_usd
            assert min(row.spent_nano_usd, row.held_nano_usd, row.overrun_nano_usd) >= 0
            assert (row.paid_nano_usd, row.held_nano_usd) == (paid[row.id], held[row.id])

    @invariant()
    def nothing_happens_twice(self) -> None:
        """I5 and I6."""
        names = Counter((it.event_id, it.leg) for it in self.model.books.transfers)
        assert not names or max(names.values()) == 1
        for hold in self.model.books.holds.values():
            if hold.state is not HoldState.OPEN:
                assert self.resolved.setdefault(hold.id, hold) == hold

    @invariant()
    def refunds_are_at_most_what_was_taken(self) -> None:
        """I9."""
        paid = {it.id: it for it in self.model.books.transfers if it.kind is TransferKind.CHARGE and it.leg == 0}
        refunds = [it for it in self.model.books.transfers if it.kind is TransferKind.REFUND]
        assert len({it.reverses for it in refunds}) == len(refunds)
        for it in refunds:
            assert it.reverses is not None
            assert it.amount_nano_usd <= paid[it.reverses].amount_nano_usd
            assert it.customer_id == paid[it.reverses].customer_id

    @invariant()
    def the_other_bank_agrees(self) -> None:
        if self.other is None:
            return
        for customer_id in self.model.books.accounts:
            assert self.other.account(customer_id) == self.model.account(customer_id)
        for hold_id in self.model.books.holds:
            assert self.other.hold(hold_id) == self.model.hold(hold_id)
        for cap_id in self.model.books.caps.rows:
            assert self.other.cap(cap_id) == self.model.cap(cap_id)

    def teardown(self) -> None:
        """I8: balances rebuilt from the transfers alone are the live ones."""
        balances = _balances(self.model.books.transfers) if hasattr(self, "model") else {}
        for name, balance in balances.items():
            if name.startswith("credits:"):
                assert self.model.books.accounts[name.removeprefix("credits:")].posted_nano_usd == balance
        charged = sum(
            it.amount_nano_usd
            for it in (self.model.books.transfers if hasattr(self, "model") else [])
            if it.kind is TransferKind.CHARGE
        )
        refunded = charged - balances.get(House.REVENUE, 0)
        assert 0 <= refunded <= charged


def shuffled_books(books: Books, usages: list[Usage], seed: int) -> Books:
    """The same accounts and holds with the same events in another order, each once or twice."""
    chance = random.Random(seed)
    order = [usage for usage in usages for _ in range(chance.choice([1, 2]))]
    chance.shuffle(order)
    other = Books(new_id=uuid7, accounts=books.accounts.values(), holds=books.holds.values())
    for usage in order:
        other.settle(usage)
    return other


def _balances(transfers: list[Transfer]) -> dict[str, int]:
    balances: Counter[str] = Counter()
    for it in transfers:
        balances[it.credit] += it.amount_nano_usd
        balances[it.debit] -= it.amount_nano_usd
    return dict(balances)
