"""Receipts from real PostgreSQL: signed, as the ledger has it, for those whom it concerns, while the log is kept."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog

from chassis.errors import Code, TollbridgeError
from chassis.ids import unix_ms, uuid7, uuid7_at
from services.billing.ledger import Usage, UsageKind
from services.billing.prices import PriceBook
from services.billing.proof import drift_store
from services.billing.receipts import receipt_check, receipt_store
from services.billing.receipts.receipt_keys import ReceiptKeys
from services.billing.receipts.receipts import Receipts
from services.billing.receipts.signatures import SigningKey
from tests.unit.billing.bank import PostgresBank
from tests.unit.billing.papers import KEY, OTHER_KEY
from tollbridge.router.v1 import router_pb2

CREDIT, CHARGE = 1_000, 300


async def _no_router(_version_id: str) -> router_pb2.PriceVersion:
    raise AssertionError("a receipt asks no router")


def _keys(bank: PostgresBank, own: SigningKey | None = KEY) -> ReceiptKeys:
    return ReceiptKeys(pool=bank.pool, own=own)


class Reader:
    """A customer with one finished request, and a replica that shows it."""

    def __init__(self, bank: PostgresBank, keys: ReceiptKeys) -> None:
        self.bank, self.customer, self.request_id = bank, f"customer-{uuid4()}", uuid7()
        prices = PriceBook(pool=bank.pool, ask_router=_no_router, log=structlog.get_logger())
        self.receipts = Receipts(pool=bank.pool, prices=prices, keys=keys)
        assert not bank.open(self.customer, CREDIT)

    def settle(
        self, kind: UsageKind = UsageKind.CHARGE, *, charge: int = CHARGE, request_id: UUID | None = None
    ) -> None:
        usage = Usage(
            request_id=request_id or self.request_id,
            kind=kind,
            customer_id=self.customer,
            hold_id=None,
            closes_hold=False,
            charge_nano_usd=charge if kind is UsageKind.CHARGE else 0,
        )
        assert not self.bank.settle([usage])

    def read(self, *, customer_id: str = "", request_id: UUID | None = None) -> dict[str, Any]:
        found = self.bank.run(self.receipts.get(request_id or self.request_id, customer_id=customer_id))
        document: dict[str, Any] = json.loads(found.document)
        return document

    def refused(self, **which: Any) -> Code:
        with pytest.raises(TollbridgeError) as caught:
            self.read(**which)
        return caught.value.code

    def problems(self, document: dict[str, Any]) -> list[str]:
        listed = self.bank.run(_keys(self.bank, None).listed())
        return receipt_check.problems(document, {each.key.id: each.key for each in listed})


@pytest.fixture
def reader(bank: PostgresBank) -> Reader:
    return Reader(bank, _keys(bank))


def test_a_receipt_is_good_with_the_keys_that_billing_lists(reader: Reader):
    """Charged, refunded in part and in the end: each time signed anew, and each time right."""
    reader.settle()
    first = reader.read(customer_id=reader.customer)
    assert (first["settled"], first["charge"], reader.problems(first)) == (True, "0.000000300", [])
    assert not reader.bank.refund(reader.request_id, 100)
    second = reader.read()
    assert (second["charge"], second["refunded"], reader.problems(second)) == ("0.000000200", "0.000000100", [])


def test_a_charge_beyond_what_the_customer_had_shows_our_loss(reader: Reader):
    """The customer pays what is there, and both legs are on the receipt."""
    reader.settle(charge=CREDIT + 200)
    found = reader.read()
    assert (found["charge"], found["overage"], len(found["transfers"])) == ("0.000001000", "0.000000200", 2)
    assert reader.problems(found) == []


def test_a_void_is_signed_and_moves_nothing(reader: Reader):
    """That nothing was charged is worth proving too."""
    reader.settle(UsageKind.VOID)
    found = reader.read()
    assert (found["charge"], found["calculation"], found["transfers"]) == ("0.000000000", None, [])
    assert reader.problems(found) == []


def test_a_receipt_of_an_old_key_stays_checkable_after_rotation(bank: PostgresBank, reader: Reader):
    """Old keys stay listed, and a new receipt names the new key."""
    reader.settle()
    old = reader.read()
    later = Reader(bank, _keys(bank, OTHER_KEY))
    later.settle()
    new = later.read()
    assert old["signature"]["key_id"] != new["signature"]["key_id"]
    assert reader.problems(old) == reader.problems(new) == []


def test_without_a_key_receipts_say_that_they_are_not_signed(bank: PostgresBank):
    """A signature of null is none."""
    unsigned = Reader(bank, _keys(bank, None))
    unsigned.settle()
    assert unsigned.read()["signature"] is None


def test_a_listed_key_is_known_before_a_receipt_is_signed_with_it(bank: PostgresBank):
    """Who reads the keys first has all that it needs for the receipts that come then."""
    own = SigningKey(uuid4().bytes * 2)
    assert own.public in [each.key for each in bank.run(_keys(bank, own).listed())]


def test_only_its_customer_sees_a_receipt(reader: Reader):
    """To others it does not exist."""
    reader.settle()
    assert reader.refused(customer_id="another") is Code.NOT_FOUND


def test_a_request_that_is_older_than_the_log_is_not_found_and_its_transfers_stay(bank: PostgresBank, reader: Reader):
    """Also while its hold is still kept: a dropped line is not a request that runs."""
    ancient = UUID(int=uuid7_at(unix_ms(uuid7()) - 99 * 86_400_000).int | uuid4().int & (1 << 62) - 1)
    assert not bank.grant(uuid7(), reader.customer, 20, 0, ancient)
    assert reader.read(request_id=ancient)["settled"] is False
    reader.settle(request_id=ancient)
    assert reader.read(request_id=ancient)["settled"] is True
    bank.admin.execute("SELECT billing.drop_usage(40, 1000)")
    assert reader.refused(request_id=ancient) is Code.NOT_FOUND
    kept = bank.admin.execute("SELECT count(*) FROM billing.transfers WHERE request_id = %s", (ancient,)).fetchone()
    assert kept == (1,)


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (receipt_store._MOVEMENTS, (["charge:1", "refund:1"],)),
        (drift_store._REQUESTS, {"first": UUID(int=0), "end": receipt_store.LAST}),
    ],
    ids=["receipts", "reconcile"],
)
def test_the_transfers_of_a_request_are_found_by_an_index(bank: PostgresBank, statement: str, values: Any):
    """However many others there are; none of them is looked at."""
    with bank.admin.transaction():
        bank.admin.execute("SET LOCAL enable_seqscan = off")
        plan = [text for (text,) in bank.admin.execute(f"EXPLAIN {statement}".encode(), values).fetchall()]
    assert any("Index Cond:" in line and "event_id = " in line for line in plan), plan
    assert not any("Seq Scan on transfers" in line for line in plan), plan


def test_the_log_shows_the_same_documents_newest_first_without_signatures(reader: Reader):
    """A page of the log is for reading; a receipt that is to be proved is asked for by its id."""
    for _ in range(3):
        reader.request_id = uuid7()
        reader.settle()
    shown, more = reader.bank.run(reader.receipts.page(customer_id=reader.customer, after=None, limit=2))
    documents = [json.loads(each.document) for each in shown]
    newest = reader.read()
    newest.pop("signature")
    assert (documents[0], more) == (newest, True)
    assert documents[0]["id"] > documents[1]["id"]
