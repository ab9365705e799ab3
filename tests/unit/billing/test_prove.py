"""The nightly proof: what it finds is an exit code, a row, a metric and a log line."""

import datetime
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from chassis import db
from chassis.bus import Bus
from cli import prove
from services.billing import events
from services.billing.figures import Figures
from services.billing.proof.proof_watch import ProofWatch


@pytest.fixture
async def system(billing_url: str, nats_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty ledger and its empty streams, told by the environment; returns the database's URL."""
    bus = await Bus.connect(nats_url, name="test", log=structlog.get_logger())
    await events.ensure_streams(bus)
    await bus.close()
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", billing_url)
    monkeypatch.setenv("TOLLBRIDGE_NATS_URL", nats_url)
    return billing_url


@pytest.fixture
def damage(billing_url: str) -> Iterator[None]:
    """A balance that no transfer made."""
    with psycopg.connect(billing_url, autocommit=True) as admin:
        admin.execute("INSERT INTO billing.ledger_accounts (customer_id, posted, credited) VALUES ('x', 5, 5)")
        yield
        admin.execute("DELETE FROM billing.ledger_accounts")


def _kept(url: str, since: datetime.datetime) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT kind, clean FROM billing.reconciliations WHERE made_at >= %s ORDER BY id", (since,)
        ).fetchall()


def _proven(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, object]]]:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(prove.prove(None)))
    thread.start()
    thread.join()
    return statuses[0], [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"ledger_proof"' in line]


async def test_a_clean_ledger_is_kept_as_such(system: str, capsys: pytest.CaptureFixture[str]):
    """Both proofs, status 0, two rows."""
    began = datetime.datetime.now(datetime.UTC)
    status, said = _proven(capsys)
    assert (status, [line["clean"] for line in said]) == (0, [True, True]), said
    assert _kept(system, began) == [("verify", True), ("replay", True)]


@pytest.mark.usefixtures("damage")
async def test_a_difference_is_a_status_a_row_a_metric_and_one_log_line(
    system: str, capsys: pytest.CaptureFixture[str]
):
    """Status 1, and billing tells it at its metrics port and once in its log."""
    status, said = _proven(capsys)
    assert (status, said[0]["level"]) == (1, "error")
    assert any("balances_are_sums: x" in example for example in said[0]["examples"])  # type: ignore[attr-defined]
    registry = CollectorRegistry()
    pool = await db.open_pool(system, role="billing", max_size=1)
    watch = ProofWatch(pool=pool, figures=Figures(registry=registry), log=structlog.get_logger())
    with capture_logs() as logs:
        await watch.look()
        await watch.look()
    await pool.close()
    told = [(line["event"], line["kind"]) for line in logs if line["log_level"] == "error"]
    assert ("ledger_proof_failed", "verify") in told
    assert len(told) == len(set(told))
    labels = {"kind": "verify", "subject": ""}
    assert registry.get_sample_value("tollbridge_billing_proof_differences", labels) == 1
    made_at = registry.get_sample_value("tollbridge_billing_proof_made_seconds", labels)
    assert made_at is not None
    assert abs(made_at - datetime.datetime.now(datetime.UTC).timestamp()) < 60


async def test_what_cannot_be_read_is_no_difference(
    system: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Without the streams status is 2, so that it is tried again; what could be proven is kept."""
    monkeypatch.setenv("TOLLBRIDGE_NATS_URL", "nats://127.0.0.1:1")
    began = datetime.datetime.now(datetime.UTC)
    status, said = _proven(capsys)
    assert (status, said[1]["error"] != "") == (2, True), said
    assert _kept(system, began) == [("verify", True)]


def test_the_daily_proof_waits_for_its_time_and_tries_again_sooner(monkeypatch: pytest.MonkeyPatch):
    """A proof that could not be had doesn't wait a day."""
    statuses, waited = iter([2, 0, 1]), list[float]()
    monkeypatch.setattr(prove, "prove", lambda _data_dir: next(statuses))

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise InterruptedError

    now = datetime.datetime(2026, 11, 21, 3, 10, tzinfo=datetime.UTC)
    with pytest.raises(InterruptedError):
        prove.prove_daily(Path(), datetime.time(3, 10), sleep=sleep, now=lambda: now)
    assert waited == [prove.RETRY_S, 86_400, 86_400]
    assert prove.seconds_until(datetime.time(3, 10), now - datetime.timedelta(minutes=10)) == 600
