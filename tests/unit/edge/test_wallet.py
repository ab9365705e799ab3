"""A customer's leases in memory: whatever happens in whatever order, they are drawn from once and stated truly."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from services.edge.spending.wallet import IDLE_S, QUIET_S, Demand, Lease, Wallet

AMOUNTS = st.integers(1, 50)


class WalletMachine(RuleBasedStateMachine):
    """Drives a wallet beside an account of it that is kept another way: by the draws and charges themselves."""

    draws = Bundle("draws")
    charges = Bundle("charges")

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.wallet = Wallet()
        self.leases: list[Lease] = []
        self.open: dict[Lease, list[int]] = {}
        self.spent: dict[Lease, list[int]] = {}
        self.captured: dict[Lease, int] = {}
        self.overdrawn: set[Lease] = set()

    @rule(amount=st.integers(1, 200))
    def is_granted(self, amount: int) -> None:
        lease = Lease(hold_id=str(len(self.leases)), customer_id="c", amount_nano_usd=amount, shared=True, ttl_s=30)
        lease.renew(self.now_s)
        self.wallet.add(lease)
        self.leases.append(lease)
        self.open[lease], self.spent[lease], self.captured[lease] = [], [], 0

    @rule(target=draws, amount=AMOUNTS)
    def draws_some(self, amount: int) -> object:
        self.wallet.need(amount, now_s=self.now_s)
        before = {lease: lease.free_nano_usd for lease in self.leases}
        lease = self.wallet.draw(amount, now_s=self.now_s)
        if lease is None:
            return multiple()
        assert before[lease] >= amount
        assert not lease.retired
        assert lease.valid_until_s > self.now_s
        self.open[lease].append(amount)
        return lease, amount

    @rule(target=charges, drawn=consumes(draws), part=st.integers(0, 130))
    def ends(self, drawn: tuple[Lease, int], part: int) -> object:
        lease, amount = drawn
        charge = amount * part // 100
        if charge > amount:
            self.overdrawn.add(lease)
        lease.settle(amount, spent_nano_usd=charge)
        self.open[lease].remove(amount)
        self.spent[lease].append(charge)
        return lease, charge

    @rule(charged=consumes(charges))
    def is_confirmed(self, charged: tuple[Lease, int]) -> None:
        lease, charge = charged
        lease.confirm(charge)
        self.spent[lease].remove(charge)
        self.captured[lease] += charge

    @rule(passed_s=st.floats(0, 12))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s
        self.wallet.retire_drained()
        if self.wallet.is_idle(self.now_s):
            self.wallet.retire()
        self.wallet.give_back()
        for lease in self.wallet.ended():
            assert not self.open[lease]
            assert not sum(self.spent[lease])
            self.wallet.remove(lease)

    @rule()
    def is_recalled(self) -> None:
        self.wallet.be_quiet(self.now_s)
        self.wallet.retire()
        self.wallet.give_back()
        assert all(lease.free_nano_usd == 0 for lease in self.wallet)

    @rule()
    def is_stated(self) -> None:
        for lease in self.wallet:
            lease.renew(self.now_s)

    @invariant()
    def every_part_of_every_lease_is_accounted_for(self) -> None:
        for lease in self.leases:
            assert lease.open_nano_usd == sum(self.open[lease])
            assert lease.spent_nano_usd == sum(self.spent[lease])
            assert lease.captured_nano_usd == self.captured[lease]
            used = lease.open_nano_usd + lease.spent_nano_usd + lease.captured_nano_usd + lease.returned_nano_usd
            if lease not in self.overdrawn:
                assert used + lease.free_nano_usd == lease.amount_nano_usd
            assert lease.free_nano_usd >= 0

    @invariant()
    def it_is_low_below_half_of_what_two_seconds_need_and_of_the_last_grant(self) -> None:
        listed = set(self.wallet)
        usable = [each for each in self.leases if each in listed and not each.retired]
        free = sum(each.free_nano_usd for each in usable if each.valid_until_s > self.now_s)
        needed = self.wallet.wish(0, now_s=self.now_s)
        grant = self.leases[-1].amount_nano_usd if self.leases else 0
        assert self.wallet.is_low(self.now_s) == bool(listed and free < min(needed, grant) // 2)

    @invariant()
    def a_statement_never_lets_billing_free_what_is_drawn_or_spent(self) -> None:
        """At its expiry, and by what is returned, billing frees at most amount - captured - (open + spent)."""
        for lease in self.leases:
            state = lease.state
            needed = sum(self.open[lease]) + sum(self.spent[lease])
            assert state.open_nano_usd + state.spent_nano_usd >= needed
            if lease not in self.overdrawn:
                assert state.returned_nano_usd <= lease.amount_nano_usd - self.captured[lease] - needed


TestWallet = WalletMachine.TestCase
TestWallet.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def lease(hold_id: str, amount: int) -> Lease:
    made = Lease(hold_id=hold_id, customer_id="c", amount_nano_usd=amount, shared=True, ttl_s=30)
    made.renew(0)
    return made


def test_a_lease_is_not_drawn_from_after_its_time():
    """Billing may have freed it; heard to keep it, it is good again."""
    wallet, kept = Wallet(), lease("a", 100)
    wallet.add(kept)
    assert wallet.draw(1, now_s=29.9) is kept
    assert wallet.draw(1, now_s=30) is None
    kept.renew(25)
    assert wallet.draw(1, now_s=54.9) is kept


def test_what_two_seconds_need_is_wished_for():
    """One request alone wishes nothing more; after credit was short nobody does."""
    wallet = Wallet()
    assert not wallet.need(10, now_s=100)
    assert wallet.need(10, now_s=100.5)
    assert wallet.need(10, now_s=101.5)
    assert wallet.wish(10, now_s=101.9) == 30
    assert wallet.wish(10, now_s=102) == 10
    assert not wallet.need(10, now_s=104)
    wallet.be_quiet(104)
    assert wallet.wish(10, now_s=104 + QUIET_S - 0.1) == 0
    assert wallet.wish(10, now_s=104 + QUIET_S) == 10


def test_a_drained_lease_is_retired_only_when_there_is_another():
    """And not while its running requests may leave enough of it."""
    wallet, first, second = Wallet(), lease("a", 100), lease("b", 100)
    wallet.need(60, now_s=0)
    wallet.add(first)
    assert wallet.draw(60, now_s=0) is first
    wallet.add(second)
    assert not first.retired
    first.settle(60, spent_nano_usd=60)
    wallet.retire_drained()
    assert first.retired
    assert not second.retired
    second.draw(60)
    second.settle(60, spent_nano_usd=60)
    wallet.retire_drained()
    assert not second.retired


def test_a_customer_is_idle_some_seconds_after_the_last_draw():
    """Then their leases go back."""
    wallet = Wallet()
    wallet.need(1, now_s=10)
    assert not wallet.is_idle(10 + IDLE_S - 0.1)
    assert wallet.is_idle(10 + IDLE_S)


def test_demand_forgets_what_is_older_than_two_seconds():
    """The second that runs, and the one before it."""
    demand = Demand()
    demand.add(5, now_s=10.9)
    demand.add(7, now_s=11.1)
    assert [demand.recent(now_s) for now_s in (11.9, 12.0, 13.0)] == [12, 7, 0]


def test_a_lease_that_is_gone_is_drawn_from_no_more() -> None:
    """What billing has ended is not drawn from again, though it was what served last and had more."""
    wallet = Wallet()
    first, second = (Lease(hold_id=name, customer_id="c", amount_nano_usd=10, shared=True, ttl_s=30) for name in "ab")
    for lease in (first, second):
        lease.renew(1000.0)
        wallet.add(lease)
    assert wallet.draw(1, now_s=1000.0) is first
    wallet.remove(first)
    assert wallet.draw(1, now_s=1000.0) is second
    second.retired = True
    assert wallet.draw(1, now_s=1000.0) is None
