"""The watch of USDT goes on: past dust that fills the lists, and past whatever the database refuses."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from services.billing.payments.payment import State
from tests.fakes.tron import FakeTron
from tests.unit.billing.payments.cashier import CONFIRMATIONS, Cashier

EXPIRES = "%SET state = 'expired'%provider = 'crypto'%"
WAITS = "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND wait_event_type = 'Lock'"
Rows = Callable[..., list[tuple[Any, ...]]]


async def until(is_so: Callable[[], object]) -> None:
    """Looks again and again, for some seconds."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


async def test_dust_that_fills_the_lists_hides_no_payment(
    cashier: Cashier, tron: FakeTron, monkeypatch: pytest.MonkeyPatch
):
    """A shop that nobody paid for long: each look goes on after the dust that the one before had listed."""
    monkeypatch.setattr("tests.fakes.tron.PAGE", 20)
    monkeypatch.setattr("services.billing.payments.tron.MAX_PAGES", 2)
    for number in range(100):
        tron.send(number % 10_000, at=time.time() - 3000 + number * 20)
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    for _ in range(4):
        await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.SETTLED


async def test_a_deadlock_of_two_replicas_ends_no_watch(cashier: Cashier, payments_url: str, rows: Rows):
    """One replica lets payments lapse while another settles two of them: both go on."""
    first, second = await cashier.begin(10), await cashier.begin(11)
    rows("UPDATE billing.payments SET expires_at = now() WHERE customer_id = %s", cashier.customer)
    lock = "SELECT FROM billing.payments WHERE id = %s FOR NO KEY UPDATE"
    async with await psycopg.AsyncConnection.connect(payments_url) as settling:
        await settling.execute(lock, (second.id,))
        async with asyncio.TaskGroup() as group:
            look = group.create_task(cashier.watch.look())
            await until(lambda: bool(rows(WAITS, EXPIRES)))
            await settling.execute(lock, (first.id,))
            await settling.commit()
            await look
    assert (await cashier.now(first)).state is (await cashier.now(second)).state is State.EXPIRED


async def test_what_the_database_refuses_is_a_pause(cashier: Cashier, monkeypatch: pytest.MonkeyPatch):
    """And not the end of the process, in which all of billing runs."""
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        raise psycopg.errors.DeadlockDetected

    monkeypatch.setattr(cashier.watch, "look", look)
    monkeypatch.setattr("services.billing.payments.watch.LEAST_PAUSE_S", 0)
    running = asyncio.create_task(cashier.watch.run())
    await until(lambda: cashier.watch.look_soon() or looks > 1 or running.done())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
