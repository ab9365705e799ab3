"""What the purse states to billing, and when it stops stating it."""

import asyncio
import time
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from chassis.errors import Code, TollbridgeError
from services.edge.metrics import LeaseCollector
from services.edge.owners import Granted
from services.edge.spending.purse import Purse, lasting_clock


class Billing:
    """Grants what is asked when told to; keeps what it was told."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.refusal: TollbridgeError | None = None
        self.stated: list[dict[str, tuple[int, int]]] = []
        self.gone: list[str] = []
        self.returned: list[str] = []
        self.ended = 0

    async def grant_lease(self, *, hold_id, amount_nano_usd, **_) -> Granted:
        await self.may_answer.wait()
        if self.refusal is not None:
            raise self.refusal
        return Granted(hold_id=hold_id, amount_nano_usd=amount_nano_usd, ttl_s=30)

    async def return_lease(self, *, hold_id) -> None:
        self.returned.append(hold_id)

    async def end(self) -> None:
        self.ended += 1

    async def state_leases(self, leases, *, as_of, only_these=False) -> tuple[float, list[str]]:
        self.stated.append({lease.hold_id: (lease.open_nano_usd, lease.spent_nano_usd) for lease in leases})
        return 10.0, self.gone


def purse_of(billing: Billing) -> Purse:
    return Purse(billing=billing, spender=uuid4())


def drawing(purse: Purse) -> asyncio.Task:
    return asyncio.create_task(purse.draw(customer_id="c", request_id="r", worst_case_nano_usd=100))


async def test_a_draw_is_stated_from_before_it_is_granted_until_it_is_confirmed():
    """Open while it runs, spent until billing has the event, then no more."""
    billing = Billing()
    purse = purse_of(billing)
    task = drawing(purse)
    await asyncio.sleep(0)
    await purse.state()
    billing.may_answer.set()
    draw = await task
    await purse.state()
    purse.settled(draw, spent_nano_usd=40)
    await purse.state()
    purse.confirmed(draw.hold_id, 40, False)
    await purse.state()
    assert billing.stated == [{draw.hold_id: (100, 0)}, {draw.hold_id: (100, 0)}, {draw.hold_id: (0, 40)}, {}]


async def test_the_figures_are_those_of_the_statements():
    """What is leased, of that what runs and what billing has not confirmed; and every lease that was asked for."""
    billing = Billing()
    purse = purse_of(billing)
    billing.may_answer.set()
    running, finished = await drawing(purse), await drawing(purse)
    purse.settled(finished, spent_nano_usd=40)
    registry = CollectorRegistry()
    registry.register(LeaseCollector(figures=lambda: purse.figures))
    assert registry.get_sample_value("tollbridge_leases") == 2
    parts = ("open", "spent", "free")
    shown = [registry.get_sample_value("tollbridge_lease_nano_usd", {"part": part}) for part in parts]
    assert shown == [running.amount_nano_usd, 40, 0]
    assert registry.get_sample_value("tollbridge_lease_events_total", {"event": "asked"}) == 2


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_a_grant_that_is_not_wanted_any_more_is_not_stated(how: str):
    """If billing granted it all the same, its absence frees it."""
    billing = Billing()
    purse = purse_of(billing)
    task = drawing(purse)
    await asyncio.sleep(0)
    if how == "cancelled":
        task.cancel()
    billing.refusal = TollbridgeError(Code.INSUFFICIENT_CREDITS, "no")
    billing.may_answer.set()
    with pytest.raises((TollbridgeError, asyncio.CancelledError)):
        await task
    await purse.state()
    assert billing.stated == [{}]
    assert purse.open_count == 0


async def test_a_hold_that_is_being_asked_for_survives_a_billing_that_does_not_know_it_yet():
    """A statement that overtakes its grant must not make the purse forget the draw."""
    billing = Billing()
    purse = purse_of(billing)
    task = drawing(purse)
    await asyncio.sleep(0)
    await purse.state()
    billing.gone = list(billing.stated[0])
    await purse.state()
    billing.gone = []
    billing.may_answer.set()
    draw = await task
    await purse.state()
    assert billing.stated[-1] == {draw.hold_id: (100, 0)}


async def test_what_was_not_needed_is_given_back_at_once():
    """Returned by its own call, and not stated any more."""
    billing = Billing()
    billing.may_answer.set()
    purse = purse_of(billing)
    draw = await drawing(purse)
    purse.give_back(draw)
    await purse.drain()
    assert billing.returned == [draw.hold_id]


async def test_the_last_statement_ends_the_spender_once_nothing_is_open_or_unconfirmed():
    """An empty spool removes itself, so that no other replica would; until then what is held is stated instead."""
    billing = Billing()
    billing.may_answer.set()
    purse = purse_of(billing)
    draw = await drawing(purse)
    await purse.drain()
    purse.settled(draw, spent_nano_usd=40)
    await purse.drain()
    assert (billing.ended, billing.stated) == (0, [{draw.hold_id: (100, 0)}, {draw.hold_id: (0, 40)}])
    purse.confirmed(draw.hold_id, 40, False)
    await purse.drain()
    assert billing.ended == 1


@pytest.mark.parametrize("how", ["cancelled", "unavailable", "deadline_exceeded"])
async def test_the_last_statement_comes_after_a_grant_that_its_asker_gave_up(monkeypatch, how: str):
    """Committed later it would be held until its half hour of grace is over, with nobody left to free it."""
    monkeypatch.setattr("services.edge.spending.lease_book.LATE_GRANT_S", 0.2)
    billing = Billing()
    purse = purse_of(billing)
    task = drawing(purse)
    await asyncio.sleep(0)
    if how == "cancelled":
        task.cancel()
    else:
        billing.refusal = TollbridgeError(Code(how), "no")
        billing.may_answer.set()
    await asyncio.wait([task])
    ended_when_granted: list[int] = []
    asyncio.get_running_loop().call_later(0.1, lambda: ended_when_granted.append(billing.ended))
    await purse.drain()
    assert (ended_when_granted, billing.ended) == ([0], 1)


async def test_a_grant_that_comes_while_a_statement_is_under_way_is_not_forgotten():
    """Billing said `gone` of what it granted a moment later."""
    billing = Billing()
    purse = purse_of(billing)
    task = drawing(purse)
    await asyncio.sleep(0)
    state = billing.state_leases

    async def overtaken(leases, *, as_of, only_these) -> tuple[float, list[str]]:
        await state(leases, as_of=as_of)
        billing.may_answer.set()
        await task
        return 10.0, [lease.hold_id for lease in leases]

    billing.state_leases = overtaken
    await purse.state()
    assert purse.open_count == 1


async def test_a_replaced_draw_is_stated_until_the_new_one_is_granted():
    """Then only the new one is, and nothing is returned by a call of its own."""
    billing = Billing()
    billing.may_answer.set()
    purse = purse_of(billing)
    first = await drawing(purse)
    second = await purse.draw(customer_id="c", request_id="r", worst_case_nano_usd=150, replaces=first)
    purse.give_back(first)
    await purse.drain()
    assert billing.returned == []
    assert billing.stated == [{second.hold_id: (150, 0)}]


def test_time_goes_on_where_there_is_no_boot_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no CLOCK_BOOTTIME; its monotonic clock counts the machine's sleep too."""
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    before = lasting_clock()
    assert lasting_clock() >= before > 0
