"""The rule of leased limits, against statements and answers that are late, lost, repeated and out of order."""

import dataclasses
import uuid

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.auth.limit_windows import (
    BUCKET_MS,
    MAX_RETRY_MS,
    WINDOW_BUCKETS,
    Books,
    Kind,
    Lease,
    Outcome,
    Statement,
    bucket_of,
    first_bucket,
    settle,
)
from tests.unit.billing.lengths import brief

NOW_MS = 1_000_000_125
WINDOW_MS = 60_000
TTL_MS, SILENT_MS = 30_000, 35_000
LATER_MS = [0, 1, 249, 250, 3_000, 19_999, 29_500, 59_750]
"""Pauses: within a bucket, between statements, and up to where a spender loses what it holds."""


@dataclasses.dataclass(eq=False)
class Spender:
    """An incarnation that keeps the promises of the proto, and nothing more."""

    kind: Kind
    id: uuid.UUID = dataclasses.field(default_factory=uuid.uuid4)
    held: int = 0
    open: list[int] = dataclasses.field(default_factory=list)
    """When each unit in use was admitted."""
    untold: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Units that were spent and whose statement was not answered, and when."""
    spent: int = 0
    since: int = 1
    number: int = 0
    answered_at: int = NOW_MS

    def begin_spell(self) -> None:
        """Has lost what it held, and tells what it admitted from the beginning; what runs is ended."""
        if self.kind.has_window:
            self.untold += [(1, at) for at in self.open]
        self.open, self.held = [], 0
        self.spent, self.since = sum(units for units, _ in self.untold), self.number + 1


@dataclasses.dataclass
class Message:
    """A statement on its way."""

    owner: Spender
    said: Statement
    since: int
    number: int
    told: int


class Limit:
    """Auth's tables for one limit, and its clock."""

    def __init__(self, kind: Kind, limit: int) -> None:
        self.kind, self.limit = kind, limit
        self.now = NOW_MS
        self.counts: dict[int, int] = {}
        self.leases: dict[uuid.UUID, Lease] = {}
        self.heard: dict[uuid.UUID, int] = {}

    def lease(self, owner: uuid.UUID, said: Statement, *, since: int, number: int) -> Outcome:
        """What LeaseLimits does."""
        others = sum(lease.held for other, lease in self.leases.items() if other != owner)
        own = self.leases.get(owner)
        counts = sorted(self.counts.items())
        books = Books(now_ms=self.now, counts=counts, held_by_others=others, own=own)
        outcome = settle(books, said, since=since, number=number)
        self.heard[owner] = self.now
        if outcome.is_new:
            self.leases[owner] = outcome.lease
            for bucket, units in outcome.counted.items():
                self.counts[bucket] = self.counts.get(bucket, 0) + units
        if outcome.lease.held > (own.held if own else 0) and outcome.lease.held > said.open:
            assert self.counted() + others + outcome.lease.held <= said.limit
        return outcome

    def end(self, owner: uuid.UUID) -> None:
        """What the sweeper does with who is silent or over."""
        lease = self.leases.pop(owner, None)
        if lease is not None and lease.held and self.kind.has_window:
            bucket = bucket_of(self.now)
            self.counts[bucket] = self.counts.get(bucket, 0) + lease.held

    def counted(self) -> int:
        """Units of the window."""
        return sum(units for bucket, units in self.counts.items() if bucket >= first_bucket(self.now))

    def held(self) -> int:
        """Units of all spenders."""
        return sum(lease.held for lease in self.leases.values())


class Crowd(RuleBasedStateMachine):
    """Two spenders of one limit; `admitted` is what clients saw."""

    kind = Kind.REQUESTS

    @initialize(limit=st.integers(1, 40))
    def begin(self, limit: int) -> None:
        self.auth = Limit(self.kind, limit)
        self.most = limit
        self.spenders = [Spender(self.kind), Spender(self.kind)]
        self.wire: list[Message] = []
        self.admitted: list[int] = []

    @rule(which=st.integers(0, 1), units=st.integers(1, 10))
    def admit(self, which: int, units: int) -> None:
        own = self.spenders[which]
        for _ in range(min(units, own.held - len(own.open))):
            own.open.append(self.auth.now)
            self.admitted.append(self.auth.now)

    @rule(which=st.integers(0, 1), begins=st.booleans(), is_lost=st.booleans(), later_ms=st.sampled_from(LATER_MS))
    def serve(self, which: int, begins: bool, is_lost: bool, later_ms: int) -> None:
        """A crowd of clients: takes all there is, begins it at once, and may tell of it much later."""
        own = self.spenders[which]
        self.say(which, needed=40, spare=5, keeps=True)
        self.arrive(len(self.wire) - 1, is_lost=is_lost, again=is_lost)
        self.admit(which, units=40)
        self.never_more_than_the_limit()
        while begins and own.open:
            self.spend(which, more=0)
        self.wait(later_ms)

    @rule(which=st.integers(0, 1), more=st.sampled_from([0, 0, 0, 3]))
    def spend(self, which: int, more: int) -> None:
        """The oldest unit in use is spent, sometimes with more than was leased for it."""
        own = self.spenders[which]
        if not own.open:
            return
        at = own.open.pop(0)
        if self.kind.has_window:
            own.held -= 1
            own.untold += [(1, at)] + [(more, self.auth.now)] * bool(more)
            own.spent += 1 + more

    @rule(which=st.integers(0, 1))
    def put_back(self, which: int) -> None:
        """The youngest unit in use is needed no more: its request was refused."""
        own = self.spenders[which]
        if own.open:
            self.admitted.remove(own.open.pop())

    @rule(which=st.integers(0, 1), needed=st.integers(0, 30), spare=st.integers(0, 10), keeps=st.booleans())
    def say(self, which: int, needed: int, spare: int, keeps: bool) -> None:
        own = self.spenders[which]
        own.number += 1
        wanted = max(own.held if keeps else 0, len(own.open) + needed + spare)
        own.held = min(own.held, wanted)
        said = Statement(
            kind=self.kind,
            limit=self.auth.limit,
            spent=own.spent,
            lately=[(units, self.auth.now - at) for units, at in own.untold],
            open=len(own.open),
            wanted=wanted,
            needed=needed,
        )
        self.wire.append(Message(own, said, own.since, own.number, len(own.untold)))

    @rule(index=st.integers(0, 20), is_lost=st.booleans(), again=st.booleans())
    def arrive(self, index: int, is_lost: bool, again: bool) -> None:
        """A statement is executed, soon or late, perhaps not for the last time; its answer may be lost."""
        if not self.wire:
            return
        index %= len(self.wire)
        message = self.wire[index] if again else self.wire.pop(index)
        own = message.owner
        outcome = self.auth.lease(own.id, message.said, since=message.since, number=message.number)
        if is_lost or own not in self.spenders or message.number != own.number or message.since != own.since:
            return
        spent_meanwhile = own.spent - message.said.spent
        own.held = outcome.lease.held - spent_meanwhile
        del own.untold[: message.told]
        own.answered_at = self.auth.now
        message.told = 0

    @rule(which=st.integers(0, 1))
    def forget(self, which: int) -> None:
        """A full statement without this subject, by a spender that has nothing of it."""
        own = self.spenders[which]
        lease = self.auth.leases.get(own.id)
        if own.open or own.untold or own.held:
            return
        if lease is not None and lease.number <= own.number:
            del self.auth.leases[own.id]
        own.spent, own.since = 0, own.number + 1

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        """What it had running is over, and somebody says so."""
        own = self.spenders[which]
        self.spenders[which] = Spender(self.kind, answered_at=self.auth.now)
        self.auth.end(own.id)

    @rule(ms=st.sampled_from(LATER_MS))
    def wait(self, ms: int) -> None:
        self.auth.now += ms
        for own in self.spenders:
            if self.auth.now - own.answered_at >= TTL_MS:
                own.begin_spell()
                own.answered_at = self.auth.now
        for owner, at in list(self.auth.heard.items()):
            if self.auth.now - at > SILENT_MS:
                self.auth.end(owner)

    @rule(limit=st.integers(1, 40))
    def change(self, limit: int) -> None:
        self.auth.limit = limit
        self.most = max(self.most, limit)

    @invariant()
    def never_more_than_the_limit(self) -> None:
        if self.kind.has_window:
            lately = [at for at in self.admitted if self.auth.now - at < WINDOW_MS]
            assert len(lately) <= self.most
        else:
            assert sum(len(own.open) for own in self.spenders) <= self.most

    def teardown(self) -> None:
        """Nothing leaks: who has nothing says so once, and a minute later all of the limit is there."""
        if not hasattr(self, "auth"):
            return
        for own in self.spenders:
            own.number += 1
            said = Statement(kind=self.kind, limit=self.auth.limit)
            self.auth.lease(own.id, said, since=own.since, number=own.number)
        gone = [owner for owner in self.auth.leases if owner not in [own.id for own in self.spenders]]
        for owner in gone:
            self.auth.end(owner)
        assert self.auth.held() == 0
        self.auth.now += WINDOW_MS + 2 * BUCKET_MS
        whole = Statement(kind=self.kind, limit=self.auth.limit, wanted=self.auth.limit, needed=self.auth.limit)
        outcome = self.auth.lease(uuid.uuid4(), whole, since=1, number=1)
        assert (outcome.lease.held, outcome.retry_after_ms) == (self.auth.limit, 0)


class ConcurrentCrowd(Crowd):
    """The same, of requests that run at once."""

    kind = Kind.CONCURRENT


TestWindows = Crowd.TestCase
TestWindows.settings = brief(examples=40, steps=40)
TestConcurrent = ConcurrentCrowd.TestCase
TestConcurrent.settings = brief(examples=25, steps=40)


def books(*counts: tuple[int, int], own: Lease | None = None, held_by_others: int = 0) -> Books:
    """Units and how long ago they were spent."""
    rows = sorted((bucket_of(NOW_MS - age_ms), units) for units, age_ms in counts)
    return Books(now_ms=NOW_MS, counts=rows, held_by_others=held_by_others, own=own)


def ask(**said: object) -> Statement:
    return Statement(**{"kind": Kind.REQUESTS, "limit": 60, **said})  # type: ignore[arg-type]


def holds(held: int, *, spent: int = 0) -> Lease:
    return Lease(held=held, spent=spent, since=1, number=5)


def test_what_fits_of_a_need_is_granted_and_the_wait_for_the_rest_is_told() -> None:
    """The wait ends when enough of what was spent has left the window, and not before."""
    got = settle(books((40, 50_000), (10, 1_000)), ask(wanted=25, needed=25), since=1, number=6)
    assert (got.lease.held, got.remaining) == (10, 10)
    assert got.retry_after_ms == (bucket_of(NOW_MS - 50_000) + WINDOW_BUCKETS) * BUCKET_MS - NOW_MS
    later = dataclasses.replace(books((40, 50_000), (10, 1_000)), now_ms=NOW_MS + got.retry_after_ms)
    assert settle(later, ask(wanted=25, needed=25), since=1, number=6).retry_after_ms == 0
    early = dataclasses.replace(later, now_ms=later.now_ms - 1)
    assert settle(early, ask(wanted=25, needed=25), since=1, number=6).retry_after_ms == 1


def test_a_need_that_depends_on_others_waits_for_the_longest_time() -> None:
    """Nobody knows when they will have spent what they hold; and a running request ends when it ends."""
    assert settle(books(held_by_others=60), ask(needed=1), since=1, number=6).retry_after_ms == MAX_RETRY_MS
    running = ask(kind=Kind.CONCURRENT, needed=1)
    assert settle(books(held_by_others=60), running, since=1, number=6).retry_after_ms == 1_000


def test_a_repeated_or_older_statement_changes_nothing_and_is_answered_with_what_holds() -> None:
    """Also when there would be more to grant by now."""
    got = settle(books(own=holds(3)), ask(spent=9, lately=[(9, 0)], wanted=20, needed=20), since=1, number=5)
    assert (got.is_new, got.counted, got.lease) == (False, {}, holds(3))
    assert got.retry_after_ms == 1


def test_spent_units_count_once_and_the_youngest_are_the_new_ones() -> None:
    """What was told before is the oldest of what is told again after a lost answer."""
    said = ask(spent=30, lately=[(10, 5_000), (20, 1_000)])
    got = settle(books(own=holds(20, spent=15)), said, since=1, number=6)
    assert got.counted == {bucket_of(NOW_MS - 1_000): 15}
    anew = settle(books(own=holds(20, spent=15)), said, since=6, number=6)
    assert sum(anew.counted.values()) == 30


def test_a_unit_counts_for_the_whole_window() -> None:
    """Sixty seconds after it was spent it counts, half a second later it doesn't."""
    for age_ms, counted in ((60_000, 1), (60_500, 0)):
        got = settle(books(own=holds(1)), ask(spent=1, lately=[(1, age_ms)]), since=1, number=6)
        assert sum(got.counted.values()) == counted


def test_what_is_held_and_wanted_stays_and_what_is_not_wanted_goes_back() -> None:
    """A spender may use what it holds while its statement travels."""
    lowered = settle(books(own=holds(30)), ask(limit=10, wanted=30, open=5), since=1, number=6)
    assert (lowered.lease.held, lowered.remaining) == (30, 5)
    assert settle(books(own=holds(30)), ask(wanted=4, open=4), since=1, number=6).lease.held == 4


def test_spare_is_a_small_part_of_what_is_left() -> None:
    """So that a busy spender doesn't hold what another needs."""
    assert settle(books(), ask(wanted=60, needed=12), since=1, number=6).lease.held == 12 + 48 // 16


def test_more_tokens_than_were_leased_count_all_the_same() -> None:
    """True tokens over the estimate leave less than nothing, which is told as nothing."""
    said = ask(kind=Kind.TOKENS, spent=90, lately=[(90, 0)], needed=1)
    got = settle(books(own=holds(50)), said, since=1, number=6)
    assert (got.lease.held, got.remaining, sum(got.counted.values())) == (0, 0, 90)
    assert got.retry_after_ms == MAX_RETRY_MS
