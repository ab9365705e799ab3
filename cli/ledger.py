"""`ledger verify`: proves the ledger of an instance and shows the proof. `--json` is the interface for scripts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cli.admin import show_table
from cli.running import NotRunning, find_database
from pricing.prices import usd_text

if TYPE_CHECKING:
    from services.billing.proof import reconcile

CLEAN, DIFFERENCES, NOT_READABLE = 0, 1, 2


def verify(data_dir: Path | None, *, as_json: bool, kept_seal: str = "") -> int:
    """Prints the report; returns 0 when everything adds up, 1 on any difference, 2 when there is nothing to read."""
    import psycopg

    from services.billing.proof.reconcile import verify as proven

    try:
        report = proven(find_database(data_dir), kept_seal=kept_seal)
    except (NotRunning, psycopg.Error) as error:
        print(f"the ledger can't be read: {error}", file=sys.stderr)
        return NOT_READABLE
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _show(report)
    return CLEAN if report.clean else DIFFERENCES


def newest_seal(data_dir: Path | None) -> int:
    """Prints the newest seal, to be kept elsewhere; returns 0, 1 when nothing is sealed yet, 2 without a ledger."""
    import psycopg

    from services.billing.proof.seal_store import seal_at

    try:
        with psycopg.connect(find_database(data_dir)) as connection:
            seal = seal_at(connection, None)
    except (NotRunning, psycopg.Error) as error:
        print(f"the ledger can't be read: {error}", file=sys.stderr)
        return NOT_READABLE
    if seal is None:
        print("nothing is sealed yet", file=sys.stderr)
        return DIFFERENCES
    print(seal.name)
    return CLEAN


def _show(report: "reconcile.Report") -> None:
    rows = [msgspec.to_builtins(check) for check in report.checks]
    show_table(rows, ("name", "examined", "differences", "examples"))
    print(
        f"\n{report.customers} customers have {usd_text(report.balance_nano_usd)} USD, "
        f"{usd_text(report.held_nano_usd)} of it held by {report.open_holds} open holds.\n"
        f"{report.charges} charges took {usd_text(report.charged_nano_usd)} USD; {report.voids} requests were void."
    )
    if report.dead_letters:
        print(f"{report.dead_letters} events were set aside and wait for an operator.")
    print("The ledger adds up." if report.clean else "THE LEDGER DOES NOT ADD UP.")
