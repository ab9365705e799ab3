"""Applying usage events on real PostgreSQL: batches that meet, and what can't be right."""

import asyncio
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from chassis.ids import unix_ms, uuid7, uuid7_at
from services.billing.ledger import Usage, UsageKind
from services.billing.settlement import Fate
from tests.unit.billing.bank import PostgresBank, event

CUSTOMERS = 12
CREDIT = 1_000


def _charge(customer_id: str, *, request_id: UUID | None = None, hold_id: UUID | None = None, amount: int = 1) -> Usage:
    return Usage(
        request_id=request_id or uuid7(),
        kind=UsageKind.CHARGE,
        customer_id=customer_id,
        hold_id=hold_id,
        closes_hold=True,
        charge_nano_usd=amount,
    )


def _book_already(admin: psycopg.Connection, request_id: UUID) -> None:
    """Makes this request's charge collide with a transfer: only the database can see that."""
    admin.execute(
        "INSERT INTO billing.transfers (id, debit, credit, amount, kind, event_id, leg)"
        " VALUES (%s, 'overage_loss', 'revenue', 1, 'adjustment', %s, 0)",
        (uuid7(), f"charge:{request_id}"),
    )


@pytest.fixture
def slow_writes(billing_url: str) -> Iterator[None]:
    """Each statement that changes balances takes a while, so that transactions that could meet do."""
    with psycopg.connect(billing_url, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.03); RETURN NULL; END $$"
        )
        admin.execute(
            "CREATE TRIGGER dawdle AFTER UPDATE ON billing.ledger_accounts FOR EACH STATEMENT EXECUTE FUNCTION dawdle()"
        )
        yield
        admin.execute("DROP FUNCTION dawdle CASCADE")


def _meet(url: str, customers: list[str]) -> list[list[Fate]]:
    """Two replicas settle the same customers' events at once, one forwards and one backwards, each with a poison."""
    banks = [PostgresBank(url), PostgresBank(url)]
    for bank in banks:  # connected and with the price at hand: both begin together
        assert not bank.settle([_charge(customers[0])])
    batches = []
    with psycopg.connect(url, autocommit=True) as admin:
        for order in (customers, customers[::-1]):
            usages = [_charge(customer) for customer in order]
            _book_already(admin, usages[-1].request_id)
            batches.append([event(usage) for usage in usages])

    def settle(bank: PostgresBank, batch: list[object]) -> list[Fate]:
        return bank.run(bank.settlement.apply(batch))  # type: ignore[arg-type]

    async def both() -> list[list[Fate]]:
        return await asyncio.gather(*(asyncio.to_thread(settle, *pair) for pair in zip(banks, batches, strict=True)))

    try:
        return asyncio.run(both())
    finally:
        for bank in banks:
            bank.close()


def test_batches_in_opposite_order_with_a_poison_each_never_deadlock(
    billing_url: str, bank: PostgresBank, slow_writes: None
):
    """All locks are taken first and in one order, also when events are applied one by one."""
    customers = [f"customer-{uuid4()}" for _ in range(CUSTOMERS)]
    for customer in customers:
        assert not bank.open(customer, CREDIT)
    rounds = 2
    for _ in range(rounds):
        for fates in _meet(billing_url, customers):
            assert fates == [Fate.COMMITTED] * (CUSTOMERS - 1) + [Fate.DEAD_LETTERED]
    with psycopg.connect(billing_url) as admin:
        deadlocks = admin.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert deadlocks == (0,)
    used = sum(bank.account(customer)[1] for customer in customers)
    assert used == rounds * 2 * CUSTOMERS


DAY_MS = 86_400_000


@pytest.mark.parametrize(
    "impossible",
    [
        uuid4,
        lambda: UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"),
        lambda: uuid7_at(unix_ms(uuid7()) + DAY_MS + 600_000),
        lambda: uuid7_at(unix_ms(uuid7()) - 401 * DAY_MS),
    ],
    ids=["no UUIDv7", "the end of time", "more than a day ahead", "older than what is kept"],
)
def test_an_event_of_an_impossible_time_is_set_aside(bank: PostgresBank, impossible: Callable[[], UUID]):
    """Its request id says when it began, and the log keeps its days only."""
    customer = f"customer-{uuid4()}"
    assert not bank.open(customer, CREDIT)
    [fate] = bank.run(bank.settlement.apply([event(_charge(customer, request_id=impossible()))]))
    assert fate is Fate.DEAD_LETTERED
    assert bank.account(customer)[1] == 0


def test_a_row_in_the_way_stops_no_other_days_partition(billing_url: str, as_billing: psycopg.Connection):
    """A day that can't have its partition is left out; all others are made."""
    with psycopg.connect(billing_url, autocommit=True) as admin:
        made = admin.execute("SELECT count(billing.make_partitions(20))").fetchone()
        assert made is not None
        admin.execute("DROP TABLE " + ", ".join(_partitions(admin)[-3:]))
    in_the_way = uuid7_at(unix_ms(uuid7()) + 19 * DAY_MS)
    as_billing.execute(
        """INSERT INTO billing.usage_events (request_id, kind, customer_id, key_id, model, operation, prompt_tokens,
            completion_tokens, charge, taken, overage, provider_cost, recorded)
        VALUES (%s, 'void', 'c', '', '', '', 0, 0, 0, 0, 0, 0, '')""",
        (in_the_way,),
    )
    assert as_billing.execute("SELECT billing.make_partitions(20)").fetchone() == (2,)


def _partitions(admin: psycopg.Connection) -> list[str]:
    """The log's daily partitions, oldest first."""
    rows = admin.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing.usage_events'::regclass"
    ).fetchall()
    return sorted(row[0] for row in rows if not row[0].endswith("_rest"))


def test_a_second_run_of_a_request_is_the_houses_loss_and_is_told(bank: PostgresBank, capsys: pytest.CaptureFixture):
    """Two runners made a charge each: the first that comes counts; the same event again is no second run."""
    customer = f"customer-{uuid4()}"
    assert not bank.open(customer, CREDIT)
    first = _charge(customer, amount=5)
    same, other = event(first), event(_charge(customer, request_id=first.request_id, amount=7))
    for each in (same, same, other):
        assert bank.run(bank.settlement.apply([each])) == [Fate.COMMITTED]
    assert bank.account(customer)[1] == 5
    told = [line for line in capsys.readouterr().out.splitlines() if "second_charge" in line]
    assert len(told) == 1
    assert str(first.request_id) in told[0]


def test_a_request_that_two_edges_tell_of_in_one_batch_is_charged_once(
    bank: PostgresBank, capsys: pytest.CaptureFixture
):
    """Also where one of them tells it twice; the other run is the house's loss, told once."""
    customer = f"customer-{uuid4()}"
    assert not bank.open(customer, CREDIT)
    first = _charge(customer, amount=5)
    other = _charge(customer, request_id=first.request_id, amount=7)
    assert bank.run(bank.settlement.apply([event(first), event(first), event(other)])) == [Fate.COMMITTED] * 3
    assert bank.account(customer)[1] == 5
    told = [line for line in capsys.readouterr().out.splitlines() if "second_charge" in line]
    assert len(told) == 1
