"""`ledger reconcile` on a real ledger: the exit code tells, and every run is kept for the alert."""

import datetime
import json
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from chassis.ids import unix_ms, uuid7
from cli.__main__ import app
from services.billing.ledger import Usage, UsageKind
from tests.unit.billing.bank import PostgresBank, event
from tollbridge.usage.v1 import usage_pb2

CUSTOMER = f"customer-{uuid4()}"
REQUESTS = [uuid7() for _ in range(3)]


@pytest.fixture(scope="module")
def books(bank: PostgresBank) -> PostgresBank:
    """Two requests at OpenRouter and one elsewhere."""
    assert not bank.open(CUSTOMER, 1_000)
    events = [
        _event(REQUESTS[0], provider_id="openrouter", generation_id="gen-1"),
        _event(REQUESTS[1], provider_id="openrouter", generation_id="gen-2"),
        _event(REQUESTS[2], provider_id="other", generation_id="gen-3"),
        _event(uuid7(), provider_id="odd", generation_id="gen-4", started_at_us=1 << 62),
    ]
    bank.run(bank.settlement.apply(events))
    return bank


def _event(request_id: UUID, **changes: object) -> usage_pb2.UsageRecorded:
    usage = Usage(
        request_id=request_id,
        kind=UsageKind.CHARGE,
        customer_id=CUSTOMER,
        hold_id=None,
        closes_hold=False,
        charge_nano_usd=10,
    )
    tokens = usage_pb2.Tokens(input=5, cached_input=1, output=2)
    return event(usage, tokens=tokens, provider_model="vendor/model", provider_cost_nano_usd=4, **changes)


def _log(*rows: tuple[str, int]) -> str:
    day = datetime.datetime.fromtimestamp(unix_ms(REQUESTS[0]) / 1000, datetime.UTC)
    head = "generation_id,created_at,cost_total,tokens_prompt,tokens_completion,tokens_cached,model_permaslug\n"
    return head + "".join(f"{id_},{day:%F %T},0.000000004,{prompt},2,1,vendor/model\n" for id_, prompt in rows)


def _run(tmp_path: Path, content: str, *options: str) -> tuple[int, dict[str, object]]:
    path = tmp_path / "export.csv"
    path.write_text(content)
    done = CliRunner().invoke(app, ["ledger", "reconcile", str(path), "--provider", "openrouter", "--json", *options])
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}


def _kept(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT subject, clean, differences FROM billing.reconciliations WHERE kind = 'reconcile' ORDER BY made_at"
        ).fetchall()


def test_drift_is_an_exit_code_and_a_row(books: PostgresBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Clean is 0, drift is 1, unreadable is 2; the first two are kept, unless it is a dry run."""
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", books.url)
    code, report = _run(tmp_path, _log(("gen-1", 6), ("gen-2", 6)))
    assert (code, report["requests"], report["by_id"]) == (0, 2, True), report
    code, report = _run(tmp_path, _log(("gen-1", 6), ("gen-2", 7), ("gen-3", 6)))
    assert (code, report["only_there"], report["unlike"]) == (1, ["gen-3"], [str(REQUESTS[1])]), report
    assert _run(tmp_path, _log(("gen-1", 6)), "--dry-run")[0] == 1
    assert _run(tmp_path, "nonsense")[0] == 2
    assert _kept(books.url) == [("openrouter", True, 0), ("openrouter", False, report["differences"])]


def test_an_impossible_time_is_the_requests_own(books: PostgresBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Nobody checks when an event says that it began; its id tells."""
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", books.url)
    assert _run(tmp_path, _log(("gen-4", 6)), "--provider-id", "odd", "--dry-run")[0] == 0


def test_a_kept_proof_is_never_changed(books: PostgresBank):
    """Not even by a superuser without taking the trigger away."""
    with psycopg.connect(books.url) as connection, pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute("UPDATE billing.reconciliations SET clean = true, differences = 0")
