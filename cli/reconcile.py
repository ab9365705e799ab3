"""`ledger reconcile`: a provider's usage exports against our log and ledger, and what differs."""

import datetime
import enum
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cli.admin import show_table
from cli.running import NotRunning, find_database
from pricing.prices import nano_usd

if TYPE_CHECKING:
    from services.billing.exports.line import ExportLine
    from services.billing.proof import drift

CLEAN, DIFFERENCES, NOT_READABLE = 0, 1, 2


class Provider(enum.StrEnum):
    """Whose exports can be read."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OPENROUTER = "openrouter"


class By(enum.StrEnum):
    """What a sum is over: requests at midnight may be on another day there than here."""

    DAY = "day"
    PERIOD = "period"


def reconcile(
    files: Annotated[list[Path], typer.Argument(help="Exports of one provider, JSON or CSV, that don't overlap.")],
    *,
    provider: Annotated[Provider, typer.Option(help="The shape of the files.")],
    provider_id: Annotated[list[str] | None, typer.Option(help="In our config, when its id is another.")] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(help="ACCOUNT: all of it is this account's. LABEL=ACCOUNT: what the export calls it."),
    ] = None,
    since: Annotated[str, typer.Option(help="First day (UTC); default: the export's.")] = "",
    until: Annotated[str, typer.Option(help="Last day (UTC); default: the export's.")] = "",
    by: Annotated[By, typer.Option(help="Compare days, or the whole period.")] = By.DAY,
    ignore: Annotated[list[str] | None, typer.Option(help="A measure not to compare, such as cost_nano_usd.")] = None,
    tolerance_count: Annotated[int, typer.Option(min=0, help="Tokens or requests that a sum may be off.")] = 0,
    tolerance_ppm: Annotated[int, typer.Option(min=0, help="The same, in parts per million.")] = 0,
    tolerance_cost_usd: Annotated[str, typer.Option(help="USD that a cost may be off.")] = "0.01",
    tolerance_cost_ppm: Annotated[int, typer.Option(min=0, help="The same, in parts per million.")] = 1000,
    data_dir: Annotated[Path | None, typer.Option(help="The instance's data directory; default: .tollbridge.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Record nothing, so alert nobody.")] = False,
) -> None:
    """Compares a provider's usage exports with the log and the ledger: status 0 without drift, 1 with, 2 unreadable."""
    import psycopg

    from services.billing.exports.line import ExportError
    from services.billing.exports.reading import read
    from services.billing.proof import drift, proof_store

    try:
        lines = read(files, provider=provider)
        scope = drift.scope(
            lines,
            provider=provider,
            accounts=account or (),
            since=_day(since),
            until=_day(until),
            by_day=by is By.DAY,
            ignored=ignore or (),
            tolerance=drift.Tolerance(
                count=tolerance_count,
                count_ppm=tolerance_ppm,
                cost_nano_usd=nano_usd(Decimal(tolerance_cost_usd)),
                cost_ppm=tolerance_cost_ppm,
            ),
        )
        url = find_database(data_dir)
        report = _compared(url, lines, scope, provider_ids=provider_id or [str(provider)])
        if not dry_run:
            kind = proof_store.Proof.RECONCILE
            found = report.differences
            proof_store.record(url, kind, report, clean=report.clean, differences=found, subject=str(provider))
    except (NotRunning, psycopg.Error, ExportError, OSError, ValueError, ArithmeticError) as error:
        print(f"nothing was compared: {error}", file=sys.stderr)
        raise typer.Exit(NOT_READABLE) from error
    print(msgspec.json.encode(report).decode()) if as_json else _show(report)
    raise typer.Exit(CLEAN if report.clean else DIFFERENCES)


def _day(text: str) -> datetime.date | None:
    return datetime.date.fromisoformat(text) if text else None


def _compared(url: str, lines: "list[ExportLine]", scope: "drift.Scope", *, provider_ids: list[str]) -> "drift.Report":
    import psycopg

    from services.billing.proof import drift, drift_store

    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        if scope.first_day < drift_store.kept_from(connection):
            raise ValueError(f"the log of {scope.first_day} was dropped; give --since")
        ours = drift_store.requests(
            connection,
            provider_ids=provider_ids,
            account=scope.account,
            first_day=scope.first_day,
            last_day=scope.last_day,
        )
        return drift.compare(lines, ours, scope)


def _show(report: "drift.Report") -> None:
    show_table(
        [msgspec.to_builtins(drift) for drift in report.drifts],
        ("account", "day", "model", "measure", "ours", "theirs"),
    )
    for name, ids in (
        ("only here", report.only_here),
        ("only there", report.only_there),
        ("counted otherwise there", report.unlike),
        ("charged but not booked so", report.unbooked),
    ):
        for id_ in ids:
            print(f"{name}: {id_}")
    print(
        f"{report.provider} from {report.first_day} to {report.last_day}: {report.requests} requests of ours and"
        f" {report.lines} lines were compared{' by id' if report.by_id else ''}; {report.differences} differ."
    )
    if not report.requests:
        print("None of our requests went there: does our config call the provider otherwise? Then give --provider-id.")
    for measure, (ours, theirs) in report.totals.items():
        print(f"  {measure}: {ours} here, {theirs} there")
