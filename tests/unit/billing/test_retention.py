"""What is dropped when its time is over, and what never is."""

import dataclasses
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from psycopg import errors

from chassis.errors import Code
from chassis.ids import unix_ms, uuid7, uuid7_at
from services.billing import config, partitions
from services.billing.ledger import Usage, UsageKind
from services.billing.proof.reconcile import verify
from tests.unit.billing.bank import PostgresBank

DAY_MS = 86_400_000
KEPT = dataclasses.replace(config.defaults(), usage_kept_days=100, holds_kept_days=50)


def _request(days_ago: int) -> UUID:
    """One that began then."""
    return UUID(int=uuid7_at(unix_ms(uuid7()) - days_ago * DAY_MS).int | uuid4().int & (1 << 62) - 1)


def _charged(bank: PostgresBank, customer: str, request_id: UUID, *, hold_id: UUID | None = None) -> UUID:
    hold_id = hold_id or uuid7()
    assert not bank.grant(hold_id, customer, 20, 0, request_id)
    usage = Usage(
        request_id=request_id,
        kind=UsageKind.CHARGE,
        customer_id=customer,
        hold_id=hold_id,
        closes_hold=True,
        charge_nano_usd=10,
    )
    assert not bank.settle([usage])
    return hold_id


def _drop(bank: PostgresBank) -> tuple[int, int]:
    """Steps that dropped of the log, and of holds."""
    log = structlog.get_logger()
    return (
        bank.run(partitions.drop_usage(pool=bank.pool, config=KEPT, log=log)),
        bank.run(partitions.prune_holds(pool=bank.pool, config=KEPT, log=log)),
    )


def test_old_days_and_resolved_holds_go_and_the_books_stay_clean(billing_url: str, bank: PostgresBank):
    """Lines and holds past their time are dropped; balances, transfers and younger rows are untouched."""
    customer = f"customer-{uuid4()}"
    assert not bank.open(customer, 1_000)
    ancient, dropped, old, new = _request(200), _request(101), _request(99), uuid7()
    with psycopg.connect(billing_url, autocommit=True) as admin:
        day = admin.execute("SELECT (now() AT TIME ZONE 'UTC')::date - 200").fetchone()
        assert day is not None
        admin.execute(
            f"CREATE TABLE billing.usage_events_{day[0]:%Y%m%d} PARTITION OF billing.usage_events FOR VALUES"
            f" FROM ('{uuid7_at(unix_ms(ancient) // DAY_MS * DAY_MS)}')"
            f" TO ('{uuid7_at((unix_ms(ancient) // DAY_MS + 1) * DAY_MS)}')".encode()
        )
        holds = [_charged(bank, customer, ancient, hold_id=_request(60))]
        holds += [_charged(bank, customer, it) for it in (dropped, old, new)]
        late = uuid7()
        resolved_late = _charged(bank, customer, late, hold_id=_request(60))
        still_open = _request(60)
        assert not bank.grant(still_open, customer, 5, 0, uuid7())
        admin.execute(
            "UPDATE billing.holds SET granted_at = granted_at - interval '60 days',"
            " expires_at = expires_at - interval '60 days' WHERE id = ANY(%s)",
            ([holds[0], still_open],),
        )
        before = bank.account(customer)
        assert _drop(bank) == (2, 1)
        assert _drop(bank) == (0, 0)
        lines = {row[0] for row in admin.execute("SELECT request_id FROM billing.usage_events")}
        assert lines == {old, new, late}
        assert bank.refund(dropped, 1) == Code.NOT_FOUND  # not "not settled yet", though its hold is still there
        kept = {row[0] for row in admin.execute("SELECT id FROM billing.holds")}
        assert kept == {*holds[1:], resolved_late, still_open}
        transfers = admin.execute("SELECT count(*) FROM billing.transfers WHERE kind = 'charge'").fetchone()
        assert transfers == (5,)
    assert bank.account(customer) == before
    report = verify(billing_url)
    assert report.clean, report.checks


@pytest.mark.parametrize("call", ["drop_usage(39, 10)", "prune_holds(39, 10)"])
def test_nothing_that_a_stream_may_bring_again_is_dropped(as_billing: psycopg.Connection, call: str):
    """Forty days are the least, whatever the service asks for."""
    with pytest.raises(errors.RaiseException):
        as_billing.execute(f"SELECT billing.{call}".encode())


@pytest.mark.parametrize("lock", ["billing.retention", "billing.prune_holds"])
def test_one_replica_drops_at_a_time(billing_url: str, bank: PostgresBank, lock: str):
    """Another one that is at it is left alone."""
    with psycopg.connect(billing_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (lock,))
        assert _drop(bank) == (0, 0)


def test_a_day_that_cant_be_dropped_keeps_no_hold(billing_url: str, bank: PostgresBank):
    """Somebody reads the log's day for hours: that is told, and holds are pruned all the same."""
    customer = f"customer-{uuid4()}"
    assert not bank.open(customer, 1_000)
    hold_id = _charged(bank, customer, _request(60), hold_id=_request(60))
    with psycopg.connect(billing_url, autocommit=True) as admin, psycopg.connect(billing_url) as reader:
        admin.execute(
            "UPDATE billing.holds SET granted_at = granted_at - interval '60 days',"
            " expires_at = expires_at - interval '60 days' WHERE id = %s",
            (hold_id,),
        )
        reader.execute("LOCK TABLE billing.usage_log IN ACCESS EXCLUSIVE MODE")
        with structlog.testing.capture_logs() as told:
            bank.run(partitions.look(pool=bank.pool, config=KEPT, log=structlog.get_logger()))
        assert [line["part"] for line in told if line["log_level"] == "error"] == ["drop_usage"]
        assert admin.execute("SELECT count(*) FROM billing.holds WHERE id = %s", (hold_id,)).fetchone() == (0,)
