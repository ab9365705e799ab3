"""`ledger prove`: verify and replay, each kept as a row of `billing.reconciliations` from which billing alerts.

Once, for a scheduler that has its own clock, or every day at a time (UTC) in a container of its own. A difference is
never tried again: it is found once, kept and shown. What can't be read is tried again after RETRY_S.
"""

import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cli.running import NotRunning, find_database

if TYPE_CHECKING:
    from services.billing.proof.proof_store import Proof

CLEAN, DIFFERENCES, NOT_READABLE = 0, 1, 2
RETRY_S = 300.0
MAX_SAID = 10
DAY = datetime.timedelta(days=1)

Result = tuple[msgspec.Struct, int, list[str]]
"""A report, how much differs, and the first of it."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One line of output, for a log: what was asked and what came out; `error` when nothing did.

    The log so keeps the newest seal elsewhere than the ledger.
    """

    event: str = "ledger_proof"
    level: str = "info"
    kind: str
    clean: bool
    differences: int = 0
    examples: list[str] = []
    seal: str = ""
    error: str = ""


def prove(data_dir: Path | None) -> int:
    """Runs both proofs and keeps their results; returns 0, 1 on any difference, else 2 when one could not be had."""
    from services.billing.proof.proof_store import Proof

    statuses = [_proof(kind, data_dir, work) for kind, work in ((Proof.VERIFY, _verify), (Proof.REPLAY, _replay))]
    return DIFFERENCES if DIFFERENCES in statuses else max(statuses)


def prove_daily(
    data_dir: Path | None,
    at: datetime.time,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
) -> None:
    """Proves now and then each day at this time (UTC), until the process is ended."""
    while True:
        status = prove(data_dir)
        sleep(RETRY_S if status == NOT_READABLE else seconds_until(at, now()))


def seconds_until(at: datetime.time, now: datetime.datetime) -> float:
    """How long until the next time that it is `at`, never 0."""
    today = datetime.datetime.combine(now.date(), at, datetime.UTC)
    return ((today if today > now else today + DAY) - now).total_seconds()


def _proof(kind: "Proof", data_dir: Path | None, work: Callable[[Path | None], Result]) -> int:
    import nats.errors
    import psycopg

    from services.billing.proof import proof_store

    try:
        report, differences, examples = work(data_dir)
        clean = not differences
        proof_store.record(find_database(data_dir), kind, report, clean=clean, differences=differences)
    except (NotRunning, psycopg.Error, nats.errors.Error, OSError) as error:
        _say(Said(kind=str(kind), level="error", clean=False, error=repr(error)))
        return NOT_READABLE
    level = "info" if clean else "error"
    seal = getattr(report, "newest_seal", "")
    shown = examples[:MAX_SAID]
    _say(Said(kind=str(kind), level=level, clean=clean, differences=differences, examples=shown, seal=seal))
    return CLEAN if clean else DIFFERENCES


def _say(said: Said) -> None:
    print(msgspec.json.encode(said).decode(), file=sys.stderr, flush=True)


def _verify(data_dir: Path | None) -> Result:
    from services.billing.proof.reconcile import verify

    report = verify(find_database(data_dir))
    examples = [f"{check.name}: {example}" for check in report.checks for example in check.examples]
    return report, sum(check.differences for check in report.checks), examples


def _replay(data_dir: Path | None) -> Result:
    from cli.replay import compared

    report = compared(data_dir)
    return report, report.differences, report.examples
