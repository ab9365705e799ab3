"""USDT that fits no payment is an operator's to give, once, and through the clearing account like any other."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import structlog

from chassis import db
from chassis.errors import Code, TollbridgeError
from cli.payments import assign, show_unmatched
from cli.schema import migrate
from services.billing.accounts import Accounts
from services.billing.payments.desk import PaymentDesk
from services.billing.payments.payment import State
from services.billing.payments.unmatched import Unmatched

Rows = Callable[..., list[tuple[Any, ...]]]
ADD = """
    INSERT INTO billing.crypto_transfers
        (transaction_id, position, address, sender, amount_micro_usdt, state, arrived_at)
    VALUES (%s, 0, 'T-shop', 'T-payer', 7770000, %s, now())
"""


@pytest.fixture
def unmatched(pool: db.Pool, desk: PaymentDesk) -> Unmatched:
    """What an operator has."""
    return Unmatched(pool=pool, desk=desk, log=structlog.get_logger())


@pytest.fixture
def transaction(rows: Rows) -> str:
    """A transfer that waits for an operator."""
    transaction_id = uuid4().hex
    rows(ADD, transaction_id, "unmatched")
    return transaction_id


async def test_an_unmatched_transfer_is_given_once(
    unmatched: Unmatched, transaction: str, pool: db.Pool, customer: str, rows: Rows
):
    """It becomes a settled payment; repeated and at once it is the same one, and nobody else gets it."""
    assert transaction in {each.transaction_id for each in await unmatched.list()}
    given = await asyncio.gather(*(unmatched.assign(transaction, 0, customer_id=customer) for _ in range(5)))
    assert {(payment.id, payment.state, payment.note) for payment in given} == {
        (given[0].id, State.SETTLED, "assigned")
    }
    accounts = Accounts(pool=pool)
    assert (await accounts.read(customer)).posted_nano_usd == 7_770_000_000
    assert rows("SELECT debit FROM billing.transfers WHERE customer_id = %s", customer) == [("clearing:crypto",)]
    assert transaction not in {each.transaction_id for each in await unmatched.list()}
    other = f"customer-{uuid4()}"
    await accounts.open(other, welcome_nano_usd=0)
    with pytest.raises(TollbridgeError) as refused:
        await unmatched.assign(transaction, 0, customer_id=other)
    assert refused.value.code is Code.CONFLICT


async def test_only_what_is_settled_on_the_chain_is_given(unmatched: Unmatched, customer: str, rows: Rows):
    """Money that may still go away is nobody's, and neither is what was never seen."""
    young = uuid4().hex
    rows(ADD, young, "seen")
    for transaction_id, code in ((young, Code.CONFLICT), ("unheard-of", Code.NOT_FOUND)):
        with pytest.raises(TollbridgeError) as refused:
            await unmatched.assign(transaction_id, 0, customer_id=customer)
        assert refused.value.code is code


async def test_a_transfer_is_given_to_a_customer_who_is_there(unmatched: Unmatched, transaction: str):
    """A mistyped customer gets nothing."""
    with pytest.raises(TollbridgeError) as refused:
        await unmatched.assign(transaction, 0, customer_id="nobody")
    assert refused.value.code is Code.NOT_FOUND


async def test_a_transfer_above_what_the_ledger_takes_at_once_is_refused_in_words(
    unmatched: Unmatched, transaction: str, customer: str, rows: Rows
):
    """It stays unmatched, and the operator reads the bound and what to do instead."""
    set_amount = "UPDATE billing.crypto_transfers SET amount_micro_usdt = %s WHERE transaction_id = %s"
    rows(set_amount, 9_007_199_254_741, transaction)
    with pytest.raises(TollbridgeError, match="above 9007199 USDT") as refused:
        await unmatched.assign(transaction, 0, customer_id=customer)
    assert refused.value.code is Code.INVALID_REQUEST
    assert transaction in {each.transaction_id for each in await unmatched.list()}
    rows(set_amount, 9_007_199_254_740, transaction)
    assert (await unmatched.assign(transaction, 0, customer_id=customer)).state is State.SETTLED


async def test_an_operator_lists_and_gives_from_a_terminal(
    payments_url: str,
    customer: str,
    transaction: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """`tollbridge ledger unmatched --json` and `ledger assign`, by the database's address."""
    monkeypatch.setenv("TOLLBRIDGE_DATABASE_URL", payments_url)
    await asyncio.to_thread(migrate, payments_url, service="auth")  # what operators do is logged there
    assert await asyncio.to_thread(lambda: show_unmatched(None, as_json=True)) == 0
    assert transaction in {each["transaction_id"] for each in json.loads(capsys.readouterr().out)}
    assert await asyncio.to_thread(lambda: assign(None, transaction, 0, customer_id=customer)) == 0
    assert json.loads(capsys.readouterr().out)["credited_usd"] == "7.770000000"
    assert await asyncio.to_thread(lambda: assign(None, "unheard-of", 0, customer_id=customer)) == 1
