"""How much of a limit a spender may hold: the one rule, pure. Nobody else decides it, and it decides under a lock.

A limit's units are *held* by a spender from their lease until it says that it spent them or gives them back. A unit of
a window (requests, tokens) that was spent counts in the bucket of that time, for 60 s and a bucket. So whenever a unit
is granted, every unit admitted in the 60 s before still counts, as held or as spent, and the sum is within the limit.

Only the database's clock is read: spenders say ages, rounded down, and what travels ages meanwhile. So a unit is never
counted earlier than it was spent, and what is late or uncertain counts longer, never shorter.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence

BUCKET_MS = 250
WINDOW_BUCKETS = 241
"""60 s and a bucket, since the moment within a bucket is not known."""
MAX_RETRY_MS = 60_000
CONCURRENT_RETRY_MS = 1_000
"""Nobody knows when a request that runs will end."""
SPARE_SHARE = 16
"""Held in advance, for nobody who waits, is at most this part of what is left: the rest is there for other spenders."""


class Kind(enum.IntEnum):
    """What is limited; the values are those of the proto and of the tables."""

    REQUESTS = 1
    TOKENS = 2
    CONCURRENT = 3

    @property
    def has_window(self) -> bool:
        """Whether units count after they were spent."""
        return self is not Kind.CONCURRENT


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a spender says and asks of one limit; the fields are those of the proto's LimitStatement."""

    kind: Kind
    limit: int
    spent: int = 0
    lately: Sequence[tuple[int, int]] = ()
    """Units and their age in milliseconds."""
    open: int = 0
    wanted: int = 0
    needed: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What is known of one spender: the units it holds, and what it had spent in which spell at its last statement."""

    held: int
    spent: int
    since: int
    number: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All that is known of one limit, as one spender sees it. `counts` are buckets and units in order of time."""

    now_ms: int
    counts: Sequence[tuple[int, int]] = ()
    held_by_others: int = 0
    own: Lease | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What holds from now on. `counted` are the buckets and units to add; `is_new` is false when nothing changed."""

    kind: Kind
    lease: Lease
    counted: Mapping[int, int]
    remaining: int
    retry_after_ms: int
    is_new: bool


def settle(books: Books, said: Statement, *, since: int, number: int) -> Outcome:
    """Counts what was spent, then says what the spender holds.

    What it holds and still wants stays: it may be in use by now. New units are granted while they fit. A statement that
    is not newer than the last one changes nothing.
    """
    own = books.own
    if own is not None and number <= own.number:
        return _outcome(books, said, lease=own, counted={}, left=_left(books, said, {}), is_new=False)
    known = own.spent if own is not None and own.since == since else 0
    newly = max(0, said.spent - known)
    counted = _counted(books, said, newly) if said.kind.has_window else {}
    left = _left(books, said, counted)
    needed = min(said.needed, max(0, left))
    spare = max(0, said.wanted - said.open - said.needed)
    granted = said.open + needed + min(spare, max(0, left - needed) // SPARE_SHARE)
    kept = 0 if own is None else min(own.held - newly, said.wanted)
    lease = Lease(held=max(granted, kept), spent=max(known, said.spent), since=since, number=number)
    return _outcome(books, said, lease=lease, counted=counted, left=left, is_new=True)


def first_bucket(now_ms: int) -> int:
    """The oldest that counts."""
    return now_ms // BUCKET_MS - WINDOW_BUCKETS + 1


def bucket_of(ms: int) -> int:
    """Where what was spent then counts: the later of the two buckets around it."""
    return -(-ms // BUCKET_MS)


def _counted(books: Books, said: Statement, newly: int) -> dict[int, int]:
    """Of the newly spent units, the youngest first, those that still count."""
    found: dict[int, int] = {}
    oldest = first_bucket(books.now_ms)
    for units, age_ms in sorted(said.lately, key=lambda one: one[1]):
        bucket, new = bucket_of(books.now_ms - age_ms), min(units, newly)
        newly -= new
        if new and bucket >= oldest:
            found[bucket] = found.get(bucket, 0) + new
    return found


def _left(books: Books, said: Statement, counted: Mapping[int, int]) -> int:
    """What fits beyond the open units; below 0 when a limit was lowered or more was spent than leased."""
    oldest = first_bucket(books.now_ms)
    before = sum(units for bucket, units in books.counts if bucket >= oldest)
    return said.limit - before - sum(counted.values()) - books.held_by_others - said.open


def _outcome(
    books: Books, said: Statement, *, lease: Lease, counted: Mapping[int, int], left: int, is_new: bool
) -> Outcome:
    is_short = said.needed > lease.held - said.open
    return Outcome(
        kind=said.kind,
        lease=lease,
        counted=counted,
        remaining=max(0, left),
        retry_after_ms=_retry_after_ms(books, said, counted, missing=said.needed - left) if is_short else 0,
        is_new=is_new,
    )


def _retry_after_ms(books: Books, said: Statement, counted: Mapping[int, int], *, missing: int) -> int:
    """Until so many units no longer count; the longest time when that depends on others."""
    if missing <= 0:
        return 1  # it is there, but an old statement gets nothing
    if not said.kind.has_window:
        return CONCURRENT_RETRY_MS
    for bucket, units in _in_order(books, counted):
        missing -= units
        if missing <= 0:
            return min(MAX_RETRY_MS, (bucket + WINDOW_BUCKETS) * BUCKET_MS - books.now_ms)
    return MAX_RETRY_MS


def _in_order(books: Books, counted: Mapping[int, int]) -> Iterable[tuple[int, int]]:
    oldest = first_bucket(books.now_ms)
    return sorted(one for one in (*books.counts, *counted.items()) if one[0] >= oldest)
