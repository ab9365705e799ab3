"""What is remembered of the transfers just written is what their rows say, and nothing waits for it in vain."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from chassis import db
from chassis.ids import uuid7
from cli.schema import migrate
from services.billing import outbox_store, written
from services.billing.holding.caps import Cap
from services.billing.ledger import Transfer, TransferKind, Usage, UsageKind
from services.billing.proof.reconcile import verify
from services.billing.proof.sealer import Sealer
from services.billing.written import Memory, Written, as_queued
from tests.unit.billing.bank import PostgresBank


@pytest.fixture
def own_bank(postgres_url: str) -> Iterator[PostgresBank]:
    """A ledger of its own."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE d{(name := uuid4().hex)}".encode())
    url = postgres_url.rpartition("/")[0] + f"/d{name}"
    migrate(url, service="billing")
    bank = PostgresBank(url)
    yield bank
    bank.close()


def _charge(customer: str, amount: int, **changes: object) -> Usage:
    fields = {"request_id": uuid7(), "kind": UsageKind.CHARGE, "hold_id": None, "closes_hold": False} | changes
    return Usage(customer_id=customer, charge_nano_usd=amount, **fields)  # type: ignore[arg-type]


def _settle_some(bank: PostgresBank) -> None:
    """Two statements: charges of three customers, one beyond what its customer has and one under a cap."""
    customers = [f'customer-{number}-"\\' for number in range(3)]
    for customer in customers:
        assert not bank.open(customer, 100)
    hold, request = uuid7(), uuid7()
    cap = Cap(id="key:k/total", amount_nano_usd=1000)
    assert not bank.grant(hold, customers[0], 20, 20, request, caps=[cap])
    bank.settle([_charge(customer, 10 + number) for number in range(3) for customer in customers])
    bank.settle([_charge(customers[1], 500), _charge(customers[0], 5, hold_id=hold, request_id=request)])


def test_what_leaves_from_memory_is_what_its_rows_say(own_bank: PostgresBank):
    """Every column, their order, and the time of the transaction: what is sent again after a failure, then from its
    rows, is the same message. Credits are read from their rows."""
    bank = own_bank
    _settle_some(bank)

    async def take(memory: Memory) -> list[outbox_store.Leaving]:
        async with db.transaction(bank.pool) as connection:
            return await outbox_store.take(connection, memory, limit=1000)

    read, remembered = bank.run(take(Memory())), bank.run(take(bank.leaving))
    assert [len(each.written.transfers) for each in read] == [1, 1, 1, 9, 3]
    assert remembered == read
    assert bank.run(take(bank.leaving)) == read


def test_what_is_sealed_from_memory_is_what_its_rows_say(own_bank: PostgresBank):
    """The chain fits; and who changed a row before it was sealed is found now."""
    bank = own_bank
    _settle_some(bank)
    sealer = Sealer(pool=bank.pool, log=structlog.get_logger(), memory=bank.unsealed)
    assert bank.run(sealer.seal()) == 1
    assert verify(bank.url).clean
    assert not bank.open("another", 100)
    bank.settle([_charge("another", 10)])
    with psycopg.connect(bank.url, autocommit=True, options="-c session_replication_role=replica") as admin:
        admin.execute("UPDATE billing.transfers SET reason = 'nicer' WHERE customer_id = 'another' AND kind = 'charge'")
    assert bank.run(sealer.seal()) == 1
    assert [check.name for check in verify(bank.url).checks if check.differences] == ["seals_are_unbroken"]


def _written(size: int) -> Written:
    moved = [
        Transfer(id=uuid7(), debit="a", credit="b", amount_nano_usd=1, kind=TransferKind.CHARGE, event_id="e")
        for _ in range(size)
    ]
    return Written(1, as_queued(moved))


@given(sizes=st.lists(st.integers(1, 6), max_size=20))
def test_memory_is_bounded_and_keeps_the_newest(sizes: list[int]):
    """What has no room is read from its rows; what was taken makes room, and is taken once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "MOST", 10)
        memory, made = Memory(), [_written(size) for size in sizes]
        for each in made:
            memory.add(each)
        assert memory.is_filling.is_set() == (sum(sizes) >= 5)
        firsts = [min(it.id for it in each.transfers) for each in made]
        found = [memory.take(first, size) for first, size in zip(firsts, sizes, strict=True)]
        kept = [number for number in range(len(sizes)) if sum(sizes[number:]) <= 10]
        assert [number for number, each in enumerate(found) if each] == kept
        assert not any(memory.take(first, size) for first, size in zip(firsts, sizes, strict=True))
        memory.start_reading()
        memory.add(_written(4))
        assert not memory.is_filling.is_set()
