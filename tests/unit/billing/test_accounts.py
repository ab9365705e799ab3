"""Credit that we give: the welcome credit once per customer, an adjustment once per call."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from chassis import db
from chassis.errors import Code, TollbridgeError
from services.billing.accounts import Accounts
from tests.patience import promised


@pytest.fixture
async def accounts(billing_url: str) -> AsyncIterator[Accounts]:
    """Accounts on a connection pool of their own."""
    pool = await db.open_pool(billing_url, role="billing", max_size=8)
    pool.timeout = promised(pool.timeout)
    yield Accounts(pool=pool)
    await pool.close()


async def test_the_welcome_credit_is_given_once_per_customer(accounts: Accounts):
    """However often and at once the account is opened, and whatever the config says by then."""
    customer = f"customer-{uuid4()}"
    await asyncio.gather(*(accounts.open(customer, welcome_nano_usd=100) for _ in range(10)))
    assert (await accounts.open(customer, welcome_nano_usd=500)).posted_nano_usd == 100


async def test_an_adjustment_is_made_once_per_call(accounts: Accounts):
    """Ten tries of one call are one transfer, credit or correction; the same call id with another amount is refused."""
    customer = f"customer-{uuid4()}"
    await accounts.open(customer, welcome_nano_usd=0)
    for request_id, amount, balance in (("give", 100, 100), ("correct", -30, 70)):
        name = f"{request_id}-{uuid4()}"
        made = await asyncio.gather(*(accounts.adjust(customer, amount, request_id=name, reason="") for _ in range(10)))
        assert len({transfer.id for transfer, _ in made}) == 1
        assert (await accounts.read(customer)).posted_nano_usd == balance
        with pytest.raises(TollbridgeError) as refused:
            await accounts.adjust(customer, amount + 1, request_id=name, reason="")
        assert refused.value.code is Code.IDEMPOTENCY_MISMATCH


async def test_a_call_id_is_one_customers_also_if_two_come_at_once(accounts: Accounts):
    """The second is told that it stands for something else, not that something broke."""
    customers = [f"customer-{uuid4()}" for _ in range(2)]
    for customer in customers:
        await accounts.open(customer, welcome_nano_usd=0)
    for _ in range(5):
        name = str(uuid4())
        calls = (accounts.adjust(customer, 1, request_id=name, reason="") for customer in customers)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        (refused,) = (end for end in ends if isinstance(end, BaseException))
        assert isinstance(refused, TollbridgeError)
        assert refused.code is Code.IDEMPOTENCY_MISMATCH
