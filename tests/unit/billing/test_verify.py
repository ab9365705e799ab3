"""`ledger verify` on a ledger that somebody damaged with all rights: each damage is named, and the exit code tells."""

import contextlib
import json
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from chassis.ids import uuid7
from cli import ledger
from services.billing.holding.caps import Cap
from services.billing.ledger import Usage, UsageKind
from tests.unit.billing.bank import PostgresBank

CUSTOMER = f"customer-{uuid4()}"
REQUEST = uuid7()
CAP = Cap(id=f"customer:{CUSTOMER}/total", amount_nano_usd=900)


@pytest.fixture(scope="module")
def books(bank: PostgresBank) -> PostgresBank:
    """A welcome credit, a charge under a cap with its refund, and an open hold."""
    hold_id = uuid7()
    assert not bank.open(CUSTOMER, 1_000)
    assert not bank.grant(hold_id, CUSTOMER, 400, 0, REQUEST, caps=[CAP])
    usage = Usage(
        request_id=REQUEST,
        kind=UsageKind.CHARGE,
        customer_id=CUSTOMER,
        hold_id=hold_id,
        closes_hold=True,
        charge_nano_usd=300,
    )
    assert not bank.settle([usage])
    assert not bank.refund(REQUEST, 100)
    assert not bank.grant(uuid7(), CUSTOMER, 50, 0, uuid7())
    return bank


@contextlib.contextmanager
def _damaged(url: str, statement: str, undo: str) -> Iterator[None]:
    """Past all triggers and foreign keys, as only a superuser can, and put right afterwards."""
    with psycopg.connect(url, autocommit=True, options="-c session_replication_role=replica") as admin:
        admin.execute("CREATE TEMP TABLE kept AS SELECT * FROM billing.transfers")
        assert admin.execute(statement.encode()).rowcount == 1
        yield
        assert admin.execute(undo.encode()).rowcount == 1


def _verify(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[str]]]:
    code = ledger.verify(None, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["clean"] == (code == 0)
    return code, {check["name"]: check["examples"] for check in report["checks"] if check["differences"]}


_PUT_BACK = (
    "INSERT INTO billing.transfers SELECT * FROM kept WHERE NOT EXISTS"
    " (SELECT FROM billing.transfers t WHERE t.id = kept.id)"
)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            (
                "UPDATE billing.ledger_accounts SET posted = posted + 1, credited = credited + 1",
                "UPDATE billing.ledger_accounts SET posted = posted - 1, credited = credited - 1",
            ),
            {"balances_are_sums": CUSTOMER},
        ),
        (
            (
                "UPDATE billing.ledger_accounts SET held = held + 1",
                "UPDATE billing.ledger_accounts SET held = held - 1",
            ),
            {"held_is_open_holds": CUSTOMER},
        ),
        (
            (
                "DELETE FROM billing.transfers WHERE kind = 'charge'",
                _PUT_BACK,
            ),
            {
                "chains_without_gaps": CUSTOMER,
                "balances_are_sums": CUSTOMER,
                "charges_are_transfers": f"charge:{REQUEST}",
                "refunds_within_charges": f"refund:{REQUEST}",
            },
        ),
        (
            (
                "UPDATE billing.transfers SET amount = amount + 1 WHERE kind = 'refund'",
                "UPDATE billing.transfers SET amount = amount - 1 WHERE kind = 'refund'",
            ),
            {"chains_without_gaps": CUSTOMER, "charges_are_transfers": f"refund:{REQUEST}"},
        ),
        (
            (
                "DELETE FROM billing.transfers WHERE kind = 'refund'",
                _PUT_BACK,
            ),
            {"balances_are_sums": CUSTOMER, "charges_are_transfers": f"refund:{REQUEST}"},
        ),
        (
            (
                "UPDATE billing.usage_events SET charge = charge + 1, taken = taken + 1 WHERE kind = 'charge'",
                "UPDATE billing.usage_events SET charge = charge - 1, taken = taken - 1 WHERE kind = 'charge'",
            ),
            {"charges_are_transfers": f"charge:{REQUEST}"},
        ),
        (
            (
                "UPDATE billing.cap_accounts SET spent = spent - 1",
                "UPDATE billing.cap_accounts SET spent = spent + 1",
            ),
            {"caps_are_sums": CAP.id},
        ),
        (
            (
                "UPDATE billing.cap_accounts SET id = 'gone'",
                f"UPDATE billing.cap_accounts SET id = '{CAP.id}'",
            ),
            {"caps_are_sums": CAP.id},
        ),
    ],
    ids=["balance", "held", "charge gone", "refund changed", "refund gone", "log changed", "cap", "cap gone"],
)
def test_a_damage_is_named(
    books: PostgresBank,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: tuple[str, str],
    named: dict[str, str],
):
    """The report says which check differs and whose books they are, and the exit code is 1; repaired, it is 0."""
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", books.url)
    with _damaged(books.url, *damage):
        code, found = _verify(capsys)
        assert code == 1
        for check, culprit in named.items():
            assert any(culprit in example for example in found.get(check, [])), found
    assert _verify(capsys) == (0, {})
