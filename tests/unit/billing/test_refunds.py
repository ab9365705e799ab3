"""Refunds on real PostgreSQL: once, never more than was taken, and never before the charge."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.billing.ledger import Transfer, Usage, UsageKind
from services.billing.proof.reconcile import verify
from tests.unit.billing.bank import PostgresBank

CREDIT, HELD, CHARGE = 1_000, 400, 300


class Case:
    """A customer with one request under way."""

    def __init__(self, bank: PostgresBank) -> None:
        self.bank = bank
        self.customer = f"customer-{uuid4()}"
        self.request_id, self.hold_id = uuid7(), uuid7()
        assert not bank.open(self.customer, CREDIT)
        assert not bank.grant(self.hold_id, self.customer, HELD, 0, self.request_id)

    def settle(self, amount: int = CHARGE) -> None:
        usage = Usage(
            request_id=self.request_id,
            kind=UsageKind.CHARGE,
            customer_id=self.customer,
            hold_id=self.hold_id,
            closes_hold=True,
            charge_nano_usd=amount,
        )
        assert not self.bank.settle([usage])

    def refund(self, amount: int = 0, *, call_id: str = "", bank: PostgresBank | None = None) -> Transfer:
        own = bank or self.bank
        refunding = own.accounts.refund(self.request_id, amount_nano_usd=amount, reason="r", call_id=call_id)
        return own.run(refunding)[0]

    @property
    def used(self) -> int:
        return self.bank.account(self.customer)[1]


@pytest.fixture
def case(bank: PostgresBank) -> Case:
    return Case(bank)


def _refused(case: Case, code: Code, amount: int = 0, call_id: str = "") -> None:
    with pytest.raises(TollbridgeError) as caught:
        case.refund(amount, call_id=call_id)
    assert caught.value.code is code


def test_a_repeated_call_answers_with_the_refund_it_made(case: Case):
    """A lost answer must not look like a second refund, nor be one."""
    case.settle()
    first = case.refund(call_id="a")
    again = case.refund(call_id="a")
    assert (again.id, again.amount_nano_usd) == (first.id, CHARGE)
    assert case.used == 0


def test_another_call_is_refused(case: Case):
    """A request is refunded once: whoever asks anew is told so."""
    case.settle()
    case.refund(call_id="a")
    _refused(case, Code.ALREADY_REFUNDED, call_id="b")
    _refused(case, Code.ALREADY_REFUNDED)
    assert case.used == 0


def test_a_part_is_given_back_and_the_rest_stays(case: Case, billing_url: str):
    """What is refunded never exceeds what was taken, in one part or two."""
    case.settle()
    _refused(case, Code.INVALID_REQUEST, CHARGE + 1)
    assert case.refund(100).amount_nano_usd == 100
    _refused(case, Code.ALREADY_REFUNDED, 200)
    assert case.used == CHARGE - 100
    report = verify(billing_url)
    assert report.clean, report.checks


def test_only_what_the_customer_paid_is_refunded(case: Case):
    """The part of a charge that was our loss isn't theirs to get back."""
    case.settle(CREDIT + 500)
    _refused(case, Code.INVALID_REQUEST, CREDIT + 1)
    assert case.refund().amount_nano_usd == CREDIT


def test_before_its_settlement_nothing_is_refunded(case: Case):
    """Only a hold is known: not settled; nothing is known: not found."""
    _refused(case, Code.NOT_SETTLED)
    case.request_id = UUID("01a00000-0000-7000-8000-000000000000")
    _refused(case, Code.NOT_FOUND)


def test_eight_refunds_at_once_give_back_once(case: Case, billing_url: str):
    """Whoever comes second, on any replica, finds the first one's refund."""
    case.settle()

    def attempt(number: int) -> str:
        bank = PostgresBank(billing_url)
        try:
            case.refund(call_id=f"call-{number}", bank=bank)
        except TollbridgeError as error:
            return str(error.code)
        finally:
            bank.close()
        return "refunded"

    with ThreadPoolExecutor(8) as threads:
        outcomes = sorted(threads.map(attempt, range(8)))
    assert outcomes == ["already_refunded"] * 7 + ["refunded"]
    assert case.used == 0
