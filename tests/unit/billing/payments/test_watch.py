"""Payments in USDT: credited once their transfer is settled on the chain, and whatever else arrives has a path too."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import structlog

from chassis import db
from chassis.config import ConfigError, read
from chassis.errors import Code, TollbridgeError
from services.billing import config
from services.billing.config import CryptoSection
from services.billing.payments.desk import Arrival, PaymentDesk
from services.billing.payments.parts import open_chain
from services.billing.payments.payment import MAX_OPEN, State
from services.billing.payments.watch import CryptoAccess, CryptoPayments, Watch
from tests.fakes.tron import SHOP, FakeTron
from tests.unit.billing.payments.cashier import CONFIRMATIONS, USD, Cashier

Rows = Callable[..., list[tuple[Any, ...]]]


async def test_a_transfer_is_credited_when_it_is_confirmed_and_not_before(cashier: Cashier, tron: FakeTron):
    """pending, confirming while it is young, settled with the configured confirmations; then nothing more."""
    payment = await cashier.begin(25)
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.PENDING
    tron.send(payment.amount_micro_usdt)
    await cashier.watch.look()
    assert ((await cashier.now(payment)).state, await cashier.balance()) == (State.CONFIRMING, 0)
    tron.mine(CONFIRMATIONS - 2)
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.CONFIRMING
    tron.mine(1)
    for _ in range(2):
        await cashier.watch.look()
    settled = await cashier.now(payment)
    assert (settled.state, settled.note) == (State.SETTLED, "")
    assert await cashier.balance() == settled.credited_nano_usd == payment.amount_micro_usdt * 1000
    assert tron.keys_seen == {"canary"}


async def test_payments_to_one_address_are_told_apart_by_their_amounts(cashier: Cashier, tron: FakeTron):
    """Two payments over the same sum ask for different amounts, and each gets its own."""
    first, second = await cashier.begin(10), await cashier.begin(10)
    assert first.amount_micro_usdt != second.amount_micro_usdt
    assert {payment.amount_micro_usdt // 10_000 for payment in (first, second)} == {1000}
    tron.send(second.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    assert (await cashier.now(first)).state is State.PENDING
    assert (await cashier.now(second)).state is State.SETTLED


async def test_the_same_request_begins_the_same_payment(cashier: Cashier):
    """With the same amount to send."""
    first = await cashier.begin(10, "again")
    assert await cashier.begin(10, "again") == first


async def test_one_customer_keeps_only_so_many_amounts_from_others(cashier: Cashier, rows: Rows):
    """Expired payments count, as they still take late money; those that were paid don't."""
    first, *_ = [await cashier.begin(10) for _ in range(MAX_OPEN)]
    rows("UPDATE billing.payments SET state = 'expired' WHERE customer_id = %s", cashier.customer)
    with pytest.raises(TollbridgeError, match="unpaid payments in USDT") as refused:
        await cashier.begin(10, "one more")
    assert refused.value.code is Code.RATE_LIMIT_EXCEEDED
    await cashier.desk.settle(first.id, Arrival(amount_nano_usd=USD, object_id="t:0", event_id="t:0"))
    assert (await cashier.begin(10, "one more")).amount_micro_usdt


async def test_beginning_waits_for_no_other_payment(cashier: Cashier, payments_url: str, rows: Rows):
    """Beginning locks the account first, settling the payment first: waiting for each other they would both be lost."""
    old = await cashier.begin(10)
    rows("UPDATE billing.payments SET open_until = now() - interval '2 hours' WHERE id = %s", old.id)
    async with await psycopg.AsyncConnection.connect(payments_url) as settling:
        await settling.execute("SELECT FROM billing.payments WHERE id = %s FOR NO KEY UPDATE", (old.id,))
        async with asyncio.timeout(20):
            await cashier.begin(10)


@pytest.mark.parametrize(("difference", "note"), [(-1_000_000, "underpaid"), (3_000_000, "overpaid")])
async def test_what_arrived_is_credited_less_or_more(cashier: Cashier, tron: FakeTron, difference: int, note: str):
    """An exchange that keeps a fee, or a customer who rounds up: the last digits still name the payment."""
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt + difference)
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    settled = await cashier.now(payment)
    assert (settled.state, settled.note) == (State.SETTLED, note)
    assert await cashier.balance() == (payment.amount_micro_usdt + difference) * 1000


async def test_late_money_is_credited_and_marked(cashier: Cashier, tron: FakeTron, rows: Rows):
    """An expired payment takes its money for a day."""
    payment = await cashier.begin(10)
    rows(
        "UPDATE billing.payments SET created_at = now() - interval '2 hours', expires_at = now() - interval '1 hour'"
        " WHERE id = %s",
        payment.id,
    )
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.EXPIRED
    tron.send(payment.amount_micro_usdt)
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.CONFIRMING
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    settled = await cashier.now(payment)
    assert (settled.state, settled.note) == (State.SETTLED, "late")


async def test_what_fits_no_payment_is_kept_for_the_operator(cashier: Cashier, tron: FakeTron, rows: Rows):
    """Too late, a second transfer, one from before the payment, or one that names nobody: none is credited or lost."""
    too_late, twice, too_early = await cashier.begin(10), await cashier.begin(11), await cashier.begin(12)
    rows(
        "UPDATE billing.payments SET created_at = now() - interval '3 days', expires_at = now() - interval '2 days',"
        " open_until = now() - interval '1 second' WHERE id = %s",
        too_late.id,
    )
    tron.send(twice.amount_micro_usdt)
    odd = [
        tron.send(too_late.amount_micro_usdt),
        tron.send(twice.amount_micro_usdt),
        tron.send(too_early.amount_micro_usdt, at=time.time() - 600),
        tron.send(7_770_000),
        tron.send(2_000_000_000_000 + too_early.amount_micro_usdt % 10_000),
    ]
    tron.send(1 << 200)
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    await cashier.watch.look()
    found = rows("SELECT transaction_id FROM billing.crypto_transfers WHERE state = 'unmatched'")
    assert {row[0] for row in found} >= {each.id for each in odd}
    assert await cashier.balance() == twice.amount_micro_usdt * 1000


async def test_a_transfer_that_goes_away_credits_nothing_and_its_payment_waits_again(
    cashier: Cashier, tron: FakeTron, rows: Rows
):
    """A reorganised block: dropped after a while; when it is in another block later, it settles."""
    payment = await cashier.begin(10)
    sent = tron.send(payment.amount_micro_usdt)
    await cashier.watch.look()
    sent.hidden = True
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.CONFIRMING
    rows(
        "UPDATE billing.crypto_transfers SET seen_at = now() - interval '11 minutes' WHERE payment_id = %s", payment.id
    )
    await cashier.watch.look()
    assert ((await cashier.now(payment)).state, await cashier.balance()) == (State.PENDING, 0)
    sent.hidden, sent.block = False, tron.height
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.CONFIRMING
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.SETTLED


async def test_a_transfer_that_was_dropped_is_credited_when_the_chain_knows_it_again(
    cashier: Cashier, tron: FakeTron, rows: Rows
):
    """After an outage a node may lag and not know it; later it does, and no list reaches back so far any more."""
    payment = await cashier.begin(10)
    sent = tron.send(payment.amount_micro_usdt)
    await cashier.watch.look()
    rows("UPDATE billing.crypto_transfers SET seen_at = now() - interval '2 days' WHERE payment_id = %s", payment.id)
    sent.hidden = True
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.PENDING
    rows("UPDATE billing.crypto_watches SET seen_until = now() + interval '1 hour'")
    sent.hidden = False
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.SETTLED
    assert await cashier.balance() == payment.amount_micro_usdt * 1000


async def test_only_the_real_usdt_to_our_address_in_a_transaction_that_succeeded_counts(
    cashier: Cashier, tron: FakeTron
):
    """Look-alike tokens, other receivers and failed transactions credit nothing, though a list may name them."""
    payment = await cashier.begin(10)
    amount = payment.amount_micro_usdt
    tron.send(amount, contract=SHOP)
    tron.send(amount, to="TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t")
    tron.send(amount).result = "OUT_OF_ENERGY"
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    assert ((await cashier.now(payment)).state, await cashier.balance()) == (State.PENDING, 0)


async def test_several_transfers_in_one_transaction_are_several_payments(cashier: Cashier, tron: FakeTron):
    """An exchange that pays two customers' payments at once."""
    first, second = await cashier.begin(10), await cashier.begin(11)
    tron.send(first.amount_micro_usdt, second.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    assert {(await cashier.now(payment)).state for payment in (first, second)} == {State.SETTLED}
    assert await cashier.balance() == (first.amount_micro_usdt + second.amount_micro_usdt) * 1000


async def test_replicas_that_look_at_once_credit_once(cashier: Cashier, tron: FakeTron, rows: Rows):
    """Also when a claim is broken."""
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    await asyncio.gather(*(watch.look() for watch in (cashier.watch, cashier.another_watch) * 3))
    rows("UPDATE billing.crypto_watches SET claimed_until = 'epoch'")
    await asyncio.gather(*(watch.look() for watch in (cashier.watch, cashier.another_watch)))
    assert (await cashier.now(payment)).state is State.SETTLED
    assert await cashier.balance() == payment.amount_micro_usdt * 1000


async def test_many_transfers_are_worked_off_in_bounded_looks(cashier: Cashier, tron: FakeTron):
    """More than a page and more than one look takes; none is skipped."""
    for number in range(210):
        tron.send(1_000_000 + number * 10_000, at=time.time() - 300 + number)
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    for _ in range(8):
        await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.SETTLED


async def test_dust_keeps_nobody_waiting(cashier: Cashier, tron: FakeTron, rows: Rows):
    """Hundreds of worthless transfers cost no look-ups, and leave no rows."""
    for number in range(300):
        tron.send(number % 10_000, at=time.time() - 60 + number / 10)
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.SETTLED
    assert rows("SELECT count(*) FROM billing.crypto_transfers WHERE amount_micro_usdt < 10000") == [(0,)]


async def test_a_chain_that_cant_be_asked_delays_and_loses_nothing(cashier: Cashier, tron: FakeTron):
    """The look fails, its claim ends, and the next one finds everything."""
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    tron.down = True
    with pytest.raises(TollbridgeError) as refused:
        await cashier.watch.look()
    assert refused.value.code is Code.UNAVAILABLE
    tron.down = False
    await cashier.another_watch.look()
    assert (await cashier.now(payment)).state is State.SETTLED


def moved_watch(cashier: Cashier, section: CryptoSection) -> Watch:
    """A watch whose configured address is another one now."""
    moved = msgspec.structs.replace(section, address="TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t")
    current = dataclasses.replace(config.defaults(), crypto=moved)

    async def opened(_: CryptoSection) -> Any:
        chain = await open_chain(section)
        listed = chain.listed

        async def only_ours(address: str, *, since_us: int) -> Any:
            return await listed(address, since_us=since_us) if address == SHOP else []

        chain.listed = only_ours  # type: ignore[method-assign]  # the stand-in knows one address
        return chain

    access = CryptoAccess(config=lambda: current, open_chain=opened)
    return Watch(pool=cashier.pool, desk=cashier.desk, access=access, log=structlog.get_logger())


async def test_a_look_that_is_cut_short_keeps_what_it_found(cashier: Cashier, tron: FakeTron, rows: Rows):
    """One failed question delays its own payment only, and never drops it."""
    sent = [(payment, tron.send(payment.amount_micro_usdt)) for payment in [await cashier.begin(10) for _ in range(6)]]
    await cashier.watch.look()
    rows("UPDATE billing.crypto_transfers SET seen_at = seen_at - interval '1 hour'")
    tron.mine(CONFIRMATIONS)
    tron.refused = {sent[-1][1].id}
    await cashier.watch.look()
    states = [(await cashier.now(payment)).state for payment, _ in sent]
    assert states == [State.SETTLED] * 5 + [State.CONFIRMING]
    tron.refused = set()
    await cashier.watch.look()
    assert (await cashier.now(sent[-1][0])).state is State.SETTLED


async def test_what_could_not_be_asked_is_listed_again(cashier: Cashier, tron: FakeTron):
    """However long that takes: how far everything was looked up ends before it."""
    payment, other = await cashier.begin(10), await cashier.begin(11)
    refused = tron.send(payment.amount_micro_usdt, at=time.time() - 30)
    tron.send(other.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    tron.refused = {refused.id}
    await cashier.watch.look()
    assert (await cashier.now(other)).state is State.SETTLED
    tron.refused = set()
    await cashier.watch.look()
    assert (await cashier.now(payment)).state is State.SETTLED


async def test_a_changed_address_still_takes_what_was_asked_for_before(
    cashier: Cashier, tron: FakeTron, section: CryptoSection
):
    """Open payments to the former address are watched on."""
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt)
    tron.mine(CONFIRMATIONS)
    await moved_watch(cashier, section).look()
    assert (await cashier.now(payment)).state is State.SETTLED


async def test_a_transfer_that_was_seen_at_a_former_address_is_followed_to_its_end(
    cashier: Cashier, tron: FakeTron, section: CryptoSection, rows: Rows
):
    """Also when no payment to that address is open any more."""
    payment = await cashier.begin(10)
    tron.send(payment.amount_micro_usdt)
    await cashier.watch.look()
    rows("UPDATE billing.payments SET open_until = now() - interval '2 days' WHERE address = %s", SHOP)
    tron.mine(CONFIRMATIONS)
    await moved_watch(cashier, section).look()
    assert (await cashier.now(payment)).state is State.SETTLED


async def test_the_local_watcher_reads_its_chain_from_a_file(
    pool: db.Pool, desk: PaymentDesk, customer: str, tmp_path: Path, tron: FakeTron
):
    """For trying things out without a chain."""
    path = tmp_path / "chain.jsonl"
    section = CryptoSection(address="T-local", watcher="local", chain_file=str(path), confirmations=3)
    current = dataclasses.replace(config.defaults(), crypto=section)
    access = CryptoAccess(config=lambda: current, open_chain=open_chain)
    payments = CryptoPayments(pool=pool, desk=desk, access=access)
    watch = Watch(pool=pool, desk=desk, access=access, log=structlog.get_logger())
    payment = await payments.create(customer_id=customer, amount_nano_usd=5 * USD, request_id="local")
    await watch.look()
    for confirmations, state in ((2, State.CONFIRMING), (3, State.SETTLED)):
        line = {
            "transaction_id": "local-1",
            "to": "T-local",
            "amount": f"{payment.amount_micro_usdt // 10**6}.{payment.amount_micro_usdt % 10**6:06d}",
            "at_us": time.time_ns() // 1000,
            "confirmations": confirmations,
        }
        path.write_bytes(msgspec.json.encode(line) + b"\n")
        await watch.look()
        assert (await desk.find(payment.id)).state is state


@pytest.mark.parametrize("address", ["", "T123", SHOP[:-1] + ("1" if SHOP[-1] != "1" else "2"), SHOP.lower()])
def test_a_mistyped_address_refuses_to_start(tmp_path: Path, address: str):
    """Customers would pay it and nobody would have the money."""
    path = tmp_path / "tollbridge.yaml"
    path.write_text(f'billing:\n  crypto: {{address: "{address}"}}\n')
    with pytest.raises(ConfigError, match="address"):
        config.parse(read(path), {})
