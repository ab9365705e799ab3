"""Leases for many requests: how much of a balance one spender gets, and how others come to what it has free."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import structlog
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import Code, TollbridgeError
from chassis.ids import now_floor, unix_ms, uuid7, uuid7_at
from services.billing.accounts import Accounts
from services.billing.figures import Figures
from services.billing.holding import hold_store
from services.billing.holding.grants import Granted, Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import HoldKind
from services.billing.holding.leases import LEASE_LIVES_S, Expiry, Page, Stated
from services.billing.listening import Listening
from services.billing.proof.reconcile import verify
from tests.patience import promised
from tests.unit.billing.bank import leases_of

BALANCE = 1000


class Bank:
    """One customer with a balance, and spenders that answer recalls with what `free` says, if they are in it."""

    def __init__(self, pool: db.Pool) -> None:
        self.pool = pool
        self.customer_id = f"customer-{uuid4()}"
        self.leases = leases_of(pool)
        self.recalled = asyncio.Event()
        self.recalls = 0
        self.grants = Grants(
            pool=pool,
            figures=Figures(registry=CollectorRegistry()),
            lease_lives_s=LEASE_LIVES_S,
            recall=self._recall,
        )

    def _recall(self, customer_id: str) -> None:
        assert customer_id == self.customer_id
        self.recalls += 1
        self.recalled.set()

    async def ask(
        self, spender: str, amount: int, *, wish: int = 0, spare: bool = False, least: int = 0, wait_s: float = 1.0
    ) -> tuple[UUID, Granted]:
        ask = Ask(
            hold_id=uuid7(),
            customer_id=self.customer_id,
            kind=HoldKind.LEASE,
            spender=spender,
            amount_nano_usd=amount,
            request_id=None if spare else uuid7(),
            wish_nano_usd=wish,
            spare=spare,
        )
        return ask.hold_id, await self.grants.grant(ask, least_nano_usd=least, wait_s=wait_s)

    async def state(self, spender: str, hold_id: UUID, *, as_of: UUID | None = None, **amounts: int) -> list[UUID]:
        """A statement of this lease only."""
        now = as_of or now_floor()
        lease = Stated(hold_id=hold_id, **{"open_nano_usd": 0, "spent_nano_usd": 0, **amounts})
        page = Page(spender=spender, as_of=now, from_id=now, until_id=now, leases=[lease])
        return list((await self.leases.state(page)).gone)

    async def held(self) -> int:
        return (await Accounts(pool=self.pool).read(self.customer_id)).held_nano_usd


@pytest.fixture
async def bank(billing_url: str) -> AsyncIterator[Bank]:
    """A customer with 1000."""
    pool = await db.open_pool(billing_url, role="billing", max_size=4)
    pool.timeout = promised(pool.timeout)
    made = Bank(pool)
    await Accounts(pool=pool).open(made.customer_id, welcome_nano_usd=BALANCE)
    yield made
    await pool.close()


async def test_a_wish_gets_a_quarter_of_what_is_available_shared_by_all_spenders(bank: Bank):
    """The asking one included; never less than what is needed, never more than wished."""
    _, first = await bank.ask("a", 10, wish=10_000)
    assert first.amount_nano_usd == 250
    _, second = await bank.ask("b", 10, wish=10_000)
    assert second.amount_nano_usd == 750 // 8
    _, third = await bank.ask("b", 10, wish=30)
    assert third.amount_nano_usd == 30
    _, fourth = await bank.ask("a", 300, wish=10_000)
    assert fourth.amount_nano_usd == 300


async def test_a_lease_larger_than_its_request_belongs_to_none(bank: Bank, billing_url: str):
    """And one of just its size to that request."""
    large, _ = await bank.ask("a", 10, wish=100)
    exact, _ = await bank.ask("a", 10, wish=10)
    with psycopg.connect(billing_url) as admin:
        rows = admin.execute(
            "SELECT id, request_id IS NULL FROM billing.holds WHERE customer_id = %s", (bank.customer_id,)
        ).fetchall()
    assert dict(rows) == {large: True, exact: False}


async def test_nobody_gets_spare_credit_where_there_is_not_plenty(bank: Bank):
    """A refill that nobody waits for is refused at once, and nothing is recalled for it."""
    _, granted = await bank.ask("a", 100, wish=200, spare=True)
    assert granted.amount_nano_usd == 200
    for amount in (201, 5000):
        with pytest.raises(TollbridgeError) as caught:
            async with asyncio.timeout(0.5):
                await bank.ask("a", amount, wish=5000, spare=True, wait_s=2.0)
        assert caught.value.code is Code.INSUFFICIENT_CREDITS
    assert bank.recalls == 0


async def test_what_was_given_back_is_freed_once_however_often_it_is_said(bank: Bank, billing_url: str):
    """Amounts in all: late, twice and out of order they free what the greatest of them says."""
    hold_id, _ = await bank.ask("a", 100)
    await bank.state("a", hold_id, open_nano_usd=30, returned_nano_usd=60)
    assert await bank.held() == 40
    await bank.state("a", hold_id, open_nano_usd=30, returned_nano_usd=60)
    await bank.state("a", hold_id, open_nano_usd=30, returned_nano_usd=20)
    assert await bank.held() == 40
    await bank.state("a", hold_id, open_nano_usd=30, returned_nano_usd=1000)
    assert await bank.held() == 0
    assert verify(billing_url).clean


async def test_nobody_gives_back_what_is_not_theirs(bank: Bank):
    """A statement of another spender's lease moves nothing and says that it is gone."""
    hold_id, _ = await bank.ask("a", 100)
    assert await bank.state("b", hold_id, returned_nano_usd=100) == [hold_id]
    assert await bank.held() == 100


async def test_a_recall_brings_what_another_spender_has_free_within_half_a_second(bank: Bank):
    """The waiting call is granted as soon as it is given back."""
    hold_id, _ = await bank.ask("a", 990)

    async def answer() -> None:
        await bank.recalled.wait()
        await bank.state("a", hold_id, open_nano_usd=90, returned_nano_usd=900)

    async with asyncio.timeout(0.5):
        (_, granted), _ = await asyncio.gather(bank.ask("b", 500, wait_s=2.0), answer())
    assert granted.amount_nano_usd == 500


async def test_what_is_given_back_in_the_last_moment_is_granted(bank: Bank, monkeypatch: pytest.MonkeyPatch):
    """All have answered then: who looked at the balance before that must not say that there is too little."""
    hold_id, _ = await bank.ask("a", 990)
    look = hold_store.unanswered

    async def after_an_answer(*args: Any, **kwargs: Any) -> int:
        await bank.state("a", hold_id, open_nano_usd=90, returned_nano_usd=900)
        return await look(*args, **kwargs)

    monkeypatch.setattr(hold_store, "unanswered", after_an_answer)
    _, granted = await bank.ask("b", 500, wait_s=0)
    assert granted.amount_nano_usd == 500


async def test_credit_that_a_silent_spender_may_have_is_reserved_and_not_insufficient(bank: Bank):
    """503 with a time to come again, until it has expired; then it is granted."""
    hold_id, granted = await bank.ask("a", 100, wish=10_000)
    assert granted.amount_nano_usd == 250
    with pytest.raises(TollbridgeError) as caught:
        await bank.ask("b", 800, wait_s=0.3)
    assert caught.value.code is Code.BALANCE_RESERVED
    assert caught.value.retry_after_s == 1
    await bank.leases.give_back(hold_id=hold_id, spender="a")
    await bank.ask("b", 800, wait_s=0.3)


async def test_what_a_silent_spender_can_not_make_up_for_is_insufficient(bank: Bank):
    """Its share would not be enough even if all of it came back."""
    await bank.ask("a", 100)
    answering, _ = await bank.ask("b", 800)

    async def answer() -> None:
        await bank.recalled.wait()
        await bank.state("b", answering, open_nano_usd=800)

    with pytest.raises(TollbridgeError) as caught:
        await asyncio.gather(bank.ask("c", 201, wait_s=0.3), answer())
    assert caught.value.code is Code.INSUFFICIENT_CREDITS


async def test_a_statement_with_something_free_is_no_answer(bank: Bank):
    """It was made before its spender heard of the recall."""
    hold_id, _ = await bank.ask("a", 990)

    async def answer() -> None:
        await bank.recalled.wait()
        await bank.state("a", hold_id, open_nano_usd=90, free_nano_usd=900)

    with pytest.raises(TollbridgeError) as caught:
        await asyncio.gather(bank.ask("b", 500, wait_s=0.3), answer())
    assert caught.value.code is Code.BALANCE_RESERVED


async def test_a_statement_from_before_the_recall_that_comes_late_is_no_answer(bank: Bank):
    """What was drawn when it was made may have come free until its spender heard of the recall."""
    hold_id, _ = await bank.ask("a", 990)
    before = now_floor()

    async def arrive() -> None:
        await bank.recalled.wait()
        await bank.state("a", hold_id, as_of=uuid7_at(unix_ms(before) - 1), open_nano_usd=990)

    with pytest.raises(TollbridgeError) as caught:
        await asyncio.gather(bank.ask("b", 500, wait_s=0.3), arrive())
    assert caught.value.code is Code.BALANCE_RESERVED


async def test_an_answer_stays_one_when_an_earlier_statement_comes_after_it(bank: Bank):
    """The earlier one is late; what was said last still holds."""
    hold_id, _ = await bank.ask("a", 990)
    before = now_floor()

    async def arrive() -> None:
        await bank.recalled.wait()
        await bank.state("a", hold_id, open_nano_usd=990)
        await bank.state("a", hold_id, as_of=before, open_nano_usd=990)

    with pytest.raises(TollbridgeError) as caught:
        await asyncio.gather(bank.ask("b", 500, wait_s=0.3), arrive())
    assert caught.value.code is Code.INSUFFICIENT_CREDITS


async def test_what_a_dead_spender_had_free_is_granted_once_its_lease_expires(bank: Bank, billing_url: str):
    """Less what it had drawn or spent by its last word, which is kept for the events that may still come."""
    hold_id, _ = await bank.ask("a", 100, wish=10_000)
    await bank.state("a", hold_id, open_nano_usd=40, spent_nano_usd=10, free_nano_usd=200)
    with psycopg.connect(billing_url) as admin:
        admin.execute("UPDATE billing.holds SET expires_at = now() - interval '1 second' WHERE id = %s", (hold_id,))
    expiry = Expiry(
        pool=bank.pool,
        settle_grace_s=lambda: 60,
        listening=Listening(),
        figures=Figures(registry=CollectorRegistry()),
        log=structlog.get_logger(),
        quiet_s=0.0,
    )
    await expiry.look()
    assert await bank.held() == 50
    await bank.ask("b", 950, wait_s=0)


async def test_a_dead_letter_keeps_its_charge_and_not_a_whole_shared_lease(bank: Bank, billing_url: str):
    """Its spender gives back the rest, and what the letter is about stays until an operator decides."""
    hold_id, _ = await bank.ask("a", 100, wish=10_000)
    with psycopg.connect(billing_url) as admin:
        admin.execute("UPDATE billing.holds SET pinned = true WHERE id = %s", (hold_id,))
    await bank.state("a", hold_id, returned_nano_usd=210)
    await bank.leases.give_back(hold_id=hold_id, spender="a")
    assert await bank.held() == 40
