"""An altered, removed or inserted past is found by the seals, whoever changed it and however well it adds up."""

import datetime
import json
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from psycopg import errors

from chassis.ids import uuid7
from cli import ledger
from services.billing.proof import sealer as sealing
from services.billing.proof.reconcile import verify
from services.billing.proof.sealer import Sealer
from services.billing.proof.seals import FIRST, Row, Seal, broken, canonical, seal_hash
from tests.unit.billing.bank import PostgresBank

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000


def _sealed(batches: list[list[Row]]) -> list[tuple[Seal, dict[UUID, Row]]]:
    made, previous = [], FIRST
    for n, rows in enumerate(batches, start=1):
        hash_, ids = seal_hash(n, previous, (row.text for row in rows)), [row.id for row in rows]
        seal = Seal(n=n, previous=previous, hash=hash_, transfer_ids=ids, emptied=True, sealed_at=NOW)
        made.append((seal, {row.id: row for row in rows}))
        previous = hash_
    return made


def _rows(count: int) -> list[Row]:
    return [Row(id=uuid7(), created_at_us=NOW_US, text=canonical({"amount": number})) for number in range(count)]


def test_a_rows_text_is_json_with_sorted_names_whatever_stands_in_it():
    """What was sealed once must come out the same for ever."""
    row = {"reason": 'a "quote"\\ \n \x00 ü €', "amount": 12, "reverses": None, "id": uuid7()}
    plain = {name: None if value is None else str(value) for name, value in row.items()}
    assert canonical(row) == json.dumps(plain, sort_keys=True, separators=(",", ":"))


def test_an_untouched_chain_fits():
    """And so does no chain at all."""
    assert not list(broken(_sealed([_rows(3), _rows(1), _rows(2)])))
    assert not list(broken([]))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda chain: chain[1][1].update({chain[1][0].transfer_ids[0]: _rows(2)[1]}), "seal 2 was altered"),
        (lambda chain: chain[0][1].popitem(), "seal 1 was removed"),
        (lambda chain: chain.pop(1), "seal 3 does not follow 1:"),
        (lambda chain: chain.pop(0), "seal 2 does not follow the beginning"),
        (lambda chain: chain.insert(0, _sealed([_rows(1)])[0]), "seal 1 does not follow 1:"),
    ],
    ids=["altered", "removed", "seal gone", "first seal gone", "seal inserted"],
)
def test_each_damage_to_the_past_breaks_the_chain(damage: object, named: str):
    """The seal that doesn't fit is named."""
    chain = _sealed([_rows(1), _rows(1), _rows(1)])
    damage(chain)  # type: ignore[operator]
    assert any(named in found for found in broken(chain))


def test_a_transfer_that_claims_to_be_older_than_the_seals_is_found():
    """It would have been in the seal before, which left nothing waiting."""
    old = Row(id=uuid7(), created_at_us=NOW_US - 2 * 86_400_000_000, text="{}")
    assert not list(broken(_sealed([[old]])))
    assert [f"transfer {old.id} of seal 2 was inserted later than it says"] == list(broken(_sealed([_rows(1), [old]])))


@pytest.fixture
def sealer(bank: PostgresBank, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sealer]:
    """Three customers with two transfers each, sealed in batches of two."""
    monkeypatch.setattr(sealing, "MAX_BATCH", 2)
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", bank.url)
    for _ in range(3):
        name = f"customer-{uuid4()}"
        assert not bank.open(name, 100)
        assert not bank.adjust(name, 50, str(uuid4()))
    made = Sealer(pool=bank.pool, log=structlog.get_logger(), memory=bank.unsealed)
    assert bank.run(made.seal()) >= 3
    yield made
    with psycopg.connect(bank.url, autocommit=True, options="-c session_replication_role=replica") as admin:
        admin.execute("TRUNCATE billing.ledger_seals, billing.unsealed")
        admin.execute("INSERT INTO billing.unsealed (transfer_ids) SELECT ARRAY[id] FROM billing.transfers")


def _found(url: str, kept: str = "") -> dict[str, list[str]]:
    return {check.name: check.examples for check in verify(url, kept_seal=kept).checks if check.differences}


def _break(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True, options="-c session_replication_role=replica") as admin:
        assert admin.execute(statement.encode()).rowcount == 1


def test_what_is_sealed_once_is_sealed_for_ever(bank: PostgresBank, sealer: Sealer, capsys: pytest.CaptureFixture[str]):
    """New transfers get new seals, nothing is sealed twice, and the newest seal stands for all."""
    assert bank.run(sealer.seal()) == 0
    report = verify(bank.url)
    assert report.clean, report.checks
    assert ledger.newest_seal(None) == 0
    kept = capsys.readouterr().out.strip()
    assert kept == report.newest_seal
    assert not bank.open(f"customer-{uuid4()}", 7)
    assert bank.run(sealer.seal()) == 1
    assert verify(bank.url).newest_seal != kept
    assert _found(bank.url, kept) == {}


def test_a_note_that_no_other_check_reads_is_covered_too(bank: PostgresBank, sealer: Sealer):
    """Every column is sealed, also those that no sum contains."""
    change = "UPDATE billing.transfers SET {} WHERE id = (SELECT transfer_ids[1] FROM billing.ledger_seals WHERE n = 2)"
    _break(bank.url, change.format("reason = 'x' || reason"))
    assert list(_found(bank.url)) == ["seals_are_unbroken"]
    assert "seal 2 was altered" in _found(bank.url)["seals_are_unbroken"][0]
    _break(bank.url, change.format("reason = substr(reason, 2)"))
    assert _found(bank.url) == {}


def test_a_transfer_beside_the_queue_is_in_no_seal(bank: PostgresBank, sealer: Sealer):
    """Inserted with all rights, past the trigger."""
    _break(
        bank.url,
        "INSERT INTO billing.transfers (id, debit, credit, amount, kind, event_id, leg)"
        " VALUES ('00000000-0000-7000-8000-000000000001', 'overage_loss', 'revenue', 1, 'adjustment', 'x', 1)",
    )
    assert "in no seal" in _found(bank.url)["transfers_are_sealed"][0]
    _break(bank.url, "DELETE FROM billing.transfers WHERE event_id = 'x'")


def test_a_past_that_was_sealed_anew_is_convicted_by_a_kept_seal(bank: PostgresBank, sealer: Sealer):
    """Who rewrites all seals too makes another newest one."""
    kept = verify(bank.url).newest_seal
    with psycopg.connect(bank.url, autocommit=True, options="-c session_replication_role=replica") as admin:
        admin.execute("UPDATE billing.transfers SET reason = 'nicer'")
        admin.execute("TRUNCATE billing.ledger_seals")
        admin.execute("INSERT INTO billing.unsealed (transfer_ids) SELECT ARRAY[id] FROM billing.transfers")
    assert bank.run(sealer.seal()) >= 3
    assert _found(bank.url) == {}
    assert kept in _found(bank.url, kept)["kept_seal"][0]
    assert "no such seal" in _found(bank.url, "nonsense")["kept_seal"][0]


@pytest.mark.usefixtures("sealer")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing.ledger_seals SET hash = previous",
        "DELETE FROM billing.ledger_seals",
        "INSERT INTO billing.unsealed (transfer_ids) VALUES (ARRAY[gen_random_uuid()])",
        "TRUNCATE billing.unsealed",
    ],
)
def test_the_service_may_only_add_seals(as_billing: psycopg.Connection, statement: str):
    """Its role can neither rewrite them nor put anything into the queue."""
    with pytest.raises(errors.InsufficientPrivilege):
        as_billing.execute(statement.encode())
