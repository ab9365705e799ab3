"""Where a provider's usage export differs from our usage log and ledger. Pure.

Both sides are summed by day (UTC), model and, when the operator says whose the export's labels are, provider account;
each measure that the export has is compared, and nothing else. Snapshots and variants of a model count as that model.
Where the export lists requests by id, they are compared one by one too, and a matched request counts on the export's
day; without ids a request at midnight may be counted on another day than ours: then compare the whole period.
"""

import dataclasses
import datetime
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from services.billing.exports import line
from services.billing.exports.line import ExportLine

MAX_NAMED = 100
_SNAPSHOT = re.compile(r"(:[a-z]+)?$|-(\d{8}|\d{4}-\d{2}-\d{2})(:[a-z]+)?$")
Group = tuple[str, str, str]
"""Provider account, day, model; '*' is all of them."""


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """How far a sum may be off: by an amount or by parts per million, whichever is more."""

    count: int = 0
    count_ppm: int = 0
    cost_nano_usd: int = 10_000_000
    cost_ppm: int = 1000

    def allows(self, measure: str, ours: int, theirs: int) -> bool:
        """Whether these two are near enough."""
        is_cost = measure == line.COST
        amount, ppm = (self.cost_nano_usd, self.cost_ppm) if is_cost else (self.count, self.count_ppm)
        return abs(theirs - ours) <= max(amount, max(ours, theirs) * ppm // 1_000_000)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared. `accounts` maps labels of the export to our accounts; `account` is that of the whole export."""

    provider: str
    first_day: datetime.date
    last_day: datetime.date
    account: str = ""
    accounts: dict[str, str] = {}
    by_day: bool = True
    ignored: frozenset[str] = frozenset()
    tolerance: Tolerance = Tolerance()


class OurLine(msgspec.Struct, frozen=True, kw_only=True):
    """A request of our log, with what the ledger has booked for it (in nano-USD, our loss included)."""

    request_id: str
    day: datetime.date
    account: str
    model: str
    generation_id: str
    measures: dict[str, int]
    charge_nano_usd: int
    booked_nano_usd: int


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of one group that differs by more than is tolerated."""

    account: str
    day: str
    model: str
    measure: str
    ours: int
    theirs: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared and what differs; at most MAX_NAMED of each list, the newest first. Amounts in nano-USD.

    `only_here` are our request ids, `only_there` generation ids; `unbooked` are requests whose transfers don't make
    their charge. `totals` are of the whole period: for each measure ours and theirs.
    """

    clean: bool
    provider: str
    first_day: str
    last_day: str
    by_id: bool
    requests: int
    lines: int
    differences: int
    drifts: list[Drift]
    only_here: list[str]
    only_there: list[str]
    unlike: list[str]
    unbooked: list[str]
    totals: dict[str, tuple[int, int]]
    tolerance: Tolerance


@dataclasses.dataclass(slots=True)
class _Grain:
    """The lines of the export that name a model, or those that don't: each is compared with all that we have."""

    with_model: bool
    measures: set[str] = dataclasses.field(default_factory=set)
    theirs: dict[Group, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))
    ours: dict[Group, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))

    def drifts(self, scope: Scope) -> list[Drift]:
        return [
            Drift(account=group[0], day=group[1], model=group[2], measure=measure, ours=ours, theirs=theirs)
            for group in sorted(self.theirs.keys() | self.ours.keys())
            for measure in sorted(self.measures - scope.ignored)
            for ours, theirs in [(self.ours[group][measure], self.theirs[group][measure])]
            if not scope.tolerance.allows(measure, ours, theirs)
        ]


def scope(
    lines: Sequence[ExportLine],
    *,
    provider: str,
    accounts: Sequence[str] = (),
    since: datetime.date | None = None,
    until: datetime.date | None = None,
    by_day: bool = True,
    ignored: Iterable[str] = (),
    tolerance: Tolerance | None = None,
) -> Scope:
    """What to compare an export on: all its days, unless told. Raises ValueError when that can't be told."""
    days = [it.day for it in lines] or [day for day in (since, until) if day]
    if not days:
        raise ValueError("the export is empty: say by --since and --until which days it is of")
    unknown = set(ignored) - line.MEASURES
    if unknown:
        raise ValueError(f"no such measure: {', '.join(sorted(unknown))}; there are {', '.join(sorted(line.MEASURES))}")
    whole = [it for it in accounts if "=" not in it]
    labels = {label: name for label, _, name in (it.rpartition("=") for it in accounts if "=" in it)}
    if len(whole) > 1 or (whole and labels):
        raise ValueError("give one account for the whole export, or a LABEL=ACCOUNT for each")
    first, last = since or min(days), until or max(days)
    if first > last:
        raise ValueError(f"{first} is after {last}")
    return Scope(
        provider=provider,
        first_day=first,
        last_day=last,
        account=whole[0] if whole else "",
        accounts=labels,
        by_day=by_day,
        ignored=frozenset(ignored),
        tolerance=tolerance or Tolerance(),
    )


def compare(lines: Sequence[ExportLine], ours: Iterable[OurLine], scope: Scope) -> Report:
    """Compares an export with our requests, which may be of a day more at both ends; see the module for the rules."""
    theirs = [it for it in lines if scope.first_day <= it.day <= scope.last_day and it.measures]
    of_id = {it.generation_id: it for it in lines if it.generation_id}
    grains = _grains(theirs, scope)
    seen, only_here, unlike, unbooked = set[str](), [], [], []
    requests, totals = 0, Counter[str]()
    for mine in ours:
        match = of_id.get(mine.generation_id)
        day = match.day if match else mine.day
        if match:
            seen.add(mine.generation_id)
        if not scope.first_day <= day <= scope.last_day:
            continue
        requests += 1
        totals.update(mine.measures)
        if mine.booked_nano_usd != mine.charge_nano_usd:
            unbooked.append(mine.request_id)
        if of_id and not match and mine.measures[line.REQUESTS]:
            only_here.append(mine.request_id)
        elif match and _unlike(mine, match, scope):
            unlike.append(mine.request_id)
        for grain in grains:
            group = _group(scope, day, _account(scope, (), mine.account), mine.model, with_model=grain.with_model)
            grain.ours[group].update(mine.measures)
    only_there = [it.generation_id for it in theirs if it.generation_id and it.generation_id not in seen]
    drifts = [drift for grain in grains for drift in grain.drifts(scope)]
    differences = len(drifts) + len(only_here) + len(only_there) + len(unlike) + len(unbooked)
    return Report(
        clean=not differences,
        provider=scope.provider,
        first_day=scope.first_day.isoformat(),
        last_day=scope.last_day.isoformat(),
        by_id=bool(of_id),
        requests=requests,
        lines=len(theirs),
        differences=differences,
        drifts=drifts[:MAX_NAMED],
        only_here=_newest(only_here),
        only_there=only_there[:MAX_NAMED],
        unlike=_newest(unlike),
        unbooked=_newest(unbooked),
        totals=_totals(totals, theirs),
        tolerance=scope.tolerance,
    )


def plain_model(name: str) -> str:
    """A model without its snapshot, variant and spelling: `Claude Haiku 4.5` is `claude-haiku-4-5-20251001`."""
    return _SNAPSHOT.sub("", name.strip().lower().replace(" ", "-").replace(".", "-"), count=1)


def _grains(theirs: Sequence[ExportLine], scope: Scope) -> list[_Grain]:
    grains = {True: _Grain(True), False: _Grain(False)}
    for it in theirs:
        grain = grains[bool(it.model)]
        account = _account(scope, it.labels, "")
        grain.theirs[_group(scope, it.day, account, it.model, with_model=grain.with_model)].update(it.measures)
        grain.measures |= it.measures.keys()
    return [grain for grain in grains.values() if grain.measures]


def _group(scope: Scope, day: datetime.date, account: str, model: str, *, with_model: bool) -> Group:
    return account, day.isoformat() if scope.by_day else "*", plain_model(model) if with_model else "*"


def _account(scope: Scope, labels: Sequence[str], own: str) -> str:
    if scope.account:
        return scope.account
    if not scope.accounts:
        return "*"
    return own or next((scope.accounts[it] for it in labels if it in scope.accounts), " ".join(labels) or "*")


def _unlike(mine: OurLine, match: ExportLine, scope: Scope) -> bool:
    return any(
        not scope.tolerance.allows(measure, mine.measures[measure], theirs)
        for measure, theirs in match.measures.items()
        if measure not in scope.ignored
    )


def _totals(ours: Mapping[str, int], theirs: Sequence[ExportLine]) -> dict[str, tuple[int, int]]:
    sums: Counter[str] = Counter()
    for it in theirs:
        sums.update(it.measures)
    measured = {measure for it in theirs for measure in it.measures}
    return {measure: (ours.get(measure, 0), sums[measure]) for measure in sorted(measured)}


def _newest(request_ids: list[str]) -> list[str]:
    """As many as are named: ids sort by their time."""
    return sorted(request_ids, reverse=True)[:MAX_NAMED]
