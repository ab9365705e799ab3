"""What `ledger reconcile` finds, and what it lets pass."""

import datetime

import pytest

from services.billing.exports.line import MEASURES, ExportLine
from services.billing.proof.drift import Drift, OurLine, Report, Tolerance, compare, plain_model, scope

DAY = datetime.date(2026, 11, 20)
NEXT = DAY + datetime.timedelta(days=1)
MODEL = "gpt-5-2026-01-01"


def _ours(number: int, *, day: datetime.date = DAY, account: str = "a", booked: int = 7, **measures: int) -> OurLine:
    return OurLine(
        request_id=f"request-{number}",
        day=day,
        account=account,
        model="gpt-5",
        generation_id=f"gen-{number}",
        measures={**dict.fromkeys(MEASURES, 0), "requests": 1, **measures},
        charge_nano_usd=7,
        booked_nano_usd=booked,
    )


def _theirs(id_: str = "", *, day: datetime.date = DAY, label: str = "key", **measures: int) -> ExportLine:
    return ExportLine(day=day, model=MODEL, labels=(label,), generation_id=id_, measures=measures)


def _compare(lines: list[ExportLine], ours: list[OurLine], **options: object) -> Report:
    return compare(lines, ours, scope(lines, provider="p", **options))  # type: ignore[arg-type]


def test_equal_sums_are_clean_whatever_the_snapshot_is_called():
    """The export's snapshot and our route's alias are one model."""
    report = _compare([_theirs(prompt=30, requests=2)], [_ours(1, prompt=10), _ours(2, prompt=20)])
    assert report.clean
    assert report.totals == {"prompt": (30, 30), "requests": (2, 2)}


def test_one_token_too_many_is_named_with_its_day_model_and_class():
    """No tolerance for counts unless one is given."""
    lines, ours = [_theirs(prompt=10, cached_input=4)], [_ours(1, prompt=10, cached_input=3)]
    report = _compare(lines, ours)
    assert report.drifts == [
        Drift(account="*", day="2026-11-20", model="gpt-5", measure="cached_input", ours=3, theirs=4)
    ]
    assert _compare(lines, ours, tolerance=Tolerance(count=1)).clean
    assert _compare(lines, ours, ignored=["cached_input"]).clean


def test_costs_are_tolerated_by_amount_or_share():
    """A cent, or a thousandth."""
    for ours, theirs, clean in [(0, 10_000_000, True), (0, 10_000_001, False), (10**12, 10**12 + 10**9, True)]:
        assert _compare([_theirs(cost_nano_usd=theirs)], [_ours(1, cost_nano_usd=ours)]).clean is clean


def test_what_the_export_does_not_measure_is_not_compared():
    """A measure that only we have is no drift."""
    assert _compare([_theirs(prompt=10)], [_ours(1, prompt=10, cached_input=3, cost_nano_usd=10**9)]).clean


def test_a_model_that_only_we_used_is_drift():
    """The provider saw nothing of it."""
    lines = [ExportLine(day=DAY, model="other", measures={"prompt": 5})]
    found = {(drift.model, drift.ours, drift.theirs) for drift in _compare(lines, [_ours(1, prompt=9)]).drifts}
    assert found == {("other", 0, 5), ("gpt-5", 9, 0)}


def test_sums_without_a_model_are_compared_with_all_models():
    """Costs by day beside usage by model."""
    lines = [_theirs(prompt=10), ExportLine(day=DAY, measures={"cost_nano_usd": 2 * 10**9})]
    report = _compare(lines, [_ours(1, prompt=10, cost_nano_usd=10**9)])
    assert [(drift.model, drift.measure) for drift in report.drifts] == [("*", "cost_nano_usd")]


def test_labels_of_the_export_are_our_accounts_when_told():
    """Drift is by account then, and a label that nobody named shows as itself."""
    lines = [_theirs(label="key-a", prompt=10), _theirs(label="key-b", prompt=5), _theirs(label="stolen", prompt=1)]
    ours = [_ours(1, account="a", prompt=10), _ours(2, account="b", prompt=6)]
    report = _compare(lines, ours, accounts=["key-a=a", "key-b=b"])
    assert [(drift.account, drift.ours, drift.theirs) for drift in report.drifts] == [("b", 6, 5), ("stolen", 0, 1)]


def test_requests_listed_only_here_or_only_there_are_named():
    """And one that both list with other counts."""
    lines = [_theirs("gen-1", prompt=10), _theirs("gen-2", prompt=5), _theirs("gen-x", prompt=5)]
    report = _compare(lines, [_ours(1, prompt=10), _ours(2, prompt=6), _ours(3, prompt=4)])
    assert (report.only_here, report.only_there, report.unlike) == (["request-3"], ["gen-x"], ["request-2"])


def test_a_matched_request_at_midnight_is_on_the_exports_day():
    """By id no day can shift; without ids the whole period is compared on demand."""
    lines = [_theirs("gen-1", day=NEXT, prompt=10), _theirs("gen-2", prompt=1)]
    ours = [_ours(1, prompt=10), _ours(2, prompt=1)]
    assert _compare(lines, ours).clean
    without = [_theirs(day=NEXT, prompt=10), _theirs(prompt=1)]
    assert len(_compare(without, ours).drifts) == 2
    assert _compare(without, ours, by_day=False).clean


def test_a_charge_that_is_not_booked_is_named():
    """The third side: the ledger's own transfers."""
    report = _compare([_theirs(requests=1)], [_ours(1, booked=6)])
    assert (report.clean, report.unbooked) == (False, ["request-1"])


def test_an_empty_export_says_nothing_until_its_days_are_told():
    """Then all that we have is drift."""
    with pytest.raises(ValueError, match="--since"):
        scope([], provider="p")
    lines = [ExportLine(day=DAY), ExportLine(day=NEXT)]
    assert scope(lines, provider="p").last_day == NEXT


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("Claude Haiku 4.5", "claude-haiku-4-5"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("openai/gpt-oss-120b:free", "openai/gpt-oss-120b"),
        ("openai/gpt-4.1-2025-04-14:free", "openai/gpt-4-1"),
        ("deepseek/deepseek-r1-0528", "deepseek/deepseek-r1-0528"),
    ],
)
def test_snapshots_and_variants_are_one_model(name: str, plain: str):
    """Exports and config call the same model differently."""
    assert plain_model(name) == plain
