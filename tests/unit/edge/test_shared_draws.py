"""Requests that draw from leases in memory: how few ask billing, and how the credit comes back."""

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

from chassis.errors import Code, TollbridgeError
from services.edge.owners import Granted
from services.edge.spending.lease_book import LATE_GRANT_S, LeaseBook
from services.edge.spending.purse import Draw, Purse
from services.edge.spending.settlement import voided
from services.edge.spending.spend_caps import SpendCap
from services.edge.spending.wallet import IDLE_S, LeaseState
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2


class Billing:
    """Grants every wish up to `plenty`, and what is needed in any case; keeps what it was told."""

    def __init__(self) -> None:
        self.plenty = 10_000
        self.down = False
        self.pause_s = 0.001
        self.gone = False
        self.takes_s = 0.0
        self.on_answer: Callable[[], None] = lambda: None
        self.asks: list[dict] = []
        self.granted: dict[str, int] = {}
        self.stated: list[dict[str, LeaseState]] = []
        self.partial: list[bool] = []
        self.ended: list[str] = []

    async def grant_lease(self, **ask) -> Granted:
        self.asks.append(ask)
        await asyncio.sleep(self.pause_s)
        self._check()
        need = ask["amount_nano_usd"]
        if ask["spare"] and self.plenty < need:
            raise TollbridgeError(Code.INSUFFICIENT_CREDITS, "no")
        amount = max(need, min(ask["wish_nano_usd"], self.plenty))
        self.granted[ask["hold_id"]] = amount
        self.on_answer()
        return Granted(hold_id=ask["hold_id"], amount_nano_usd=amount, ttl_s=30)

    async def return_lease(self, *, hold_id: str) -> None:
        self._check()
        self.ended.append(hold_id)

    async def end(self) -> None:
        self._check()
        self.stated.append({})
        self.partial.append(False)

    async def state_leases(self, leases, *, as_of, only_these=False) -> tuple[float, list[str]]:
        self._check()
        self.stated.append({lease.hold_id: lease for lease in leases})
        self.partial.append(only_these)
        self.on_answer()
        return 10.0, [lease.hold_id for lease in leases] if self.gone else []

    def _check(self) -> None:
        if self.down:
            raise TollbridgeError(Code.UNAVAILABLE, "away", retry_after_s=1)


class Desk:
    """A purse with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.billing = Billing()
        self.purse = Purse(billing=self.billing, spender=uuid4(), clock=lambda: self.now_s)

    async def draw(self, amount: int = 10, **options) -> Draw:
        return await self.purse.draw(customer_id="c", request_id="r", worst_case_nano_usd=amount, **options)

    async def shared(self) -> Draw:
        """The first draw from a lease for many: the second request in a moment."""
        first = await self.draw()
        self.purse.give_back(first)
        draw = await self.draw()
        assert not draw.closes_hold
        return draw

    async def recall(self) -> None:
        await self.purse.on_recall(billing_pb2.CreditRecall(customer_ids=["c"]).SerializeToString())


@pytest.fixture
def desk() -> Desk:
    """Nothing was asked yet."""
    return Desk()


async def test_one_request_alone_gets_a_lease_of_its_own(desk: Desk):
    """Seconds after the last one as well."""
    for _ in range(3):
        assert (await desk.draw()).closes_hold
        desk.now_s += 3
    assert [ask["wish_nano_usd"] for ask in desk.billing.asks] == [0, 0, 0]


async def test_requests_at_once_ask_billing_a_few_times(desk: Desk):
    """One asks, the others wait for it and draw from what it got."""
    draws = await asyncio.gather(*(desk.draw() for _ in range(200)))
    assert len(desk.billing.asks) <= 6
    assert len({id(draw) for draw in draws}) == 200
    drawn: dict[str, int] = {}
    for draw in draws:
        drawn[draw.hold_id] = drawn.get(draw.hold_id, 0) + draw.amount_nano_usd
    assert all(amount <= desk.billing.granted[hold_id] for hold_id, amount in drawn.items())


async def test_more_is_asked_for_before_it_is_needed(desk: Desk):
    """In the background, for nobody's request; no draw waits."""
    await desk.shared()
    asked = len(desk.billing.asks)
    desk.billing.pause_s = 0.05
    while len(desk.billing.asks) == asked:
        async with asyncio.timeout(0.02):
            await desk.draw(1)
        await asyncio.sleep(0)
    spare = desk.billing.asks[-1]
    assert (spare["spare"], spare["request_id"]) == (True, "")
    await desk.purse.drain()


async def test_a_recall_gives_everything_free_back_in_one_call(desk: Desk):
    """What is drawn stays; and for a while only what is needed is asked for."""
    draw = await desk.shared()
    await desk.recall()
    lease = desk.billing.stated[-1][draw.hold_id]
    amount = desk.billing.granted[draw.hold_id]
    assert (lease.open_nano_usd, lease.returned_nano_usd, lease.free_nano_usd) == (10, amount - 10, 0)
    assert desk.billing.partial == [True]
    assert (await desk.draw()).closes_hold
    assert desk.billing.asks[-1]["wish_nano_usd"] == 0


async def test_of_a_lease_with_a_dead_letter_all_but_its_charge_comes_back(desk: Desk):
    """Billing keeps such a lease open, so ending it gives back nothing."""
    draw = await desk.shared()
    desk.purse.settled(draw, spent_nano_usd=4)
    desk.purse.confirmed(draw.hold_id, 4, True)
    desk.now_s += IDLE_S
    await desk.purse.drain()
    (told,) = [stated[draw.hold_id] for stated in desk.billing.stated if draw.hold_id in stated]
    assert told.returned_nano_usd == desk.billing.granted[draw.hold_id] - 4
    assert draw.hold_id in desk.billing.ended


async def test_a_retired_lease_ends_when_its_last_event_is_confirmed(desk: Desk):
    """Not before: billing would free what is not charged yet."""
    draw = await desk.shared()
    await desk.recall()
    desk.purse.settled(draw, spent_nano_usd=4)
    await desk.purse.state()
    assert draw.hold_id not in desk.billing.ended
    assert desk.billing.stated[-1][draw.hold_id].spent_nano_usd == 4
    desk.purse.confirmed(draw.hold_id, 4, False)
    await asyncio.sleep(0)
    assert draw.hold_id in desk.billing.ended
    await desk.purse.state()
    assert draw.hold_id not in desk.billing.stated[-1]


async def test_idle_leases_go_back(desk: Desk):
    """All that is free at once, the rest with its requests."""
    draw = await desk.shared()
    desk.now_s += IDLE_S
    await desk.purse.state()
    lease = desk.billing.stated[-1][draw.hold_id]
    assert (lease.open_nano_usd, lease.free_nano_usd) == (10, 0)
    assert lease.returned_nano_usd == desk.billing.granted[draw.hold_id] - 10
    desk.purse.give_back(draw)
    await asyncio.sleep(0)
    assert draw.hold_id in desk.billing.ended


async def test_what_fits_a_living_lease_is_served_while_billing_is_down(desk: Desk):
    """Until billing may have freed it; all else is unavailable at once."""
    await asyncio.gather(*(desk.shared(), *(desk.draw() for _ in range(20))))
    desk.billing.down = True
    assert not (await desk.draw(1)).closes_hold
    desk.now_s += 30
    with pytest.raises(TollbridgeError) as caught:
        await desk.draw(1)
    assert caught.value.code is Code.UNAVAILABLE
    desk.billing.down = False
    desk.now_s += LATE_GRANT_S
    await desk.purse.drain()


async def test_who_waits_for_a_lease_hears_that_billing_is_down(desk: Desk):
    """And does not ask once more, so that nobody waits twice as long."""
    await desk.draw()
    desk.billing.down, desk.billing.pause_s = True, 0.05
    answers = await asyncio.gather(*(desk.draw() for _ in range(10)), return_exceptions=True)
    assert [answer.code for answer in answers if isinstance(answer, TollbridgeError)] == [Code.UNAVAILABLE] * 10
    assert len(desk.billing.asks) == 2


async def test_who_waits_is_served_when_the_asking_request_is_given_up(desk: Desk):
    """Its client left; the others ask again."""
    await desk.draw()
    desk.billing.pause_s = 0.05
    asking = asyncio.create_task(desk.draw())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(desk.draw())
    await asyncio.sleep(0)
    asking.cancel()
    async with asyncio.timeout(20):
        assert (await waiting).amount_nano_usd == 10
    await desk.purse.state()
    assert desk.billing.asks[1]["hold_id"] not in desk.billing.stated[-1]


async def test_where_credit_is_short_everybody_asks_for_themselves_at_once(desk: Desk):
    """Nobody waits for a lease that would be for one request anyway."""
    desk.billing.plenty = 0
    await desk.draw()
    assert (await desk.draw()).closes_hold
    desk.billing.pause_s = 0.05
    async with asyncio.timeout(0.09):
        draws = await asyncio.gather(*(desk.draw() for _ in range(20)))
    assert all(draw.closes_hold for draw in draws)


async def test_a_capped_request_never_draws_from_a_shared_lease(desk: Desk):
    """Its cap counts holds of its own."""
    await desk.shared()
    capped = await desk.draw(caps=[SpendCap(owner="key:k", per="day", amount_nano_usd=100)])
    assert capped.closes_hold
    assert desk.billing.asks[-1]["wish_nano_usd"] == 0


async def test_a_dearer_second_attempt_draws_what_the_first_one_had_too(desk: Desk):
    """A lease that has room for the difference only is enough."""
    draw = await desk.shared()
    room = desk.billing.granted[draw.hold_id]
    asked = len(desk.billing.asks)
    second = await desk.draw(room, replaces=draw)
    assert (second.hold_id, second.amount_nano_usd, len(desk.billing.asks)) == (draw.hold_id, room, asked)
    desk.purse.give_back(draw)
    desk.purse.settled(draw, spent_nano_usd=5)
    await desk.purse.state()
    assert desk.billing.stated[-1][second.hold_id].open_nano_usd == room
    assert desk.billing.stated[-1][second.hold_id].spent_nano_usd == 0


async def test_a_lease_that_billing_has_ended_is_not_drawn_from(desk: Desk):
    """What runs on it is stated on, so that its end is heard of."""
    draw = await desk.shared()
    state = desk.billing.state_leases

    async def gone(leases, **options) -> tuple[float, list[str]]:
        await state(leases, **options)
        return 10.0, [lease.hold_id for lease in leases]

    desk.billing.state_leases = gone
    await desk.purse.state()
    assert (await desk.draw()).hold_id != draw.hold_id
    await desk.purse.state()
    assert draw.hold_id in desk.billing.stated[-1]


async def test_a_lease_that_billing_does_not_believe_us_about_comes_to_its_end(desk: Desk):
    """Nothing more is drawn from it, and when nothing runs on it, it is stated no more: whatever was counted wrong."""
    draw = await desk.shared()
    desk.purse.confirmed(draw.hold_id, 7, set_aside=False)
    desk.billing.gone = True
    await desk.purse.state()
    assert desk.billing.stated[-1][draw.hold_id].spent_nano_usd == -7
    desk.billing.gone = False
    assert (await desk.draw()).hold_id != draw.hold_id
    desk.purse.settled(draw, spent_nano_usd=0)
    await desk.purse.drain()
    assert draw.hold_id not in desk.billing.stated[-1]
    assert draw.hold_id in desk.billing.ended


@pytest.mark.parametrize("heard", ["grant", "statement"])
async def test_a_lease_lives_from_when_billing_was_asked_and_not_from_when_it_was_heard(desk: Desk, heard: str):
    """An answer that took 20 s was 20 s old: billing may end the lease 20 s before."""
    desk.billing.on_answer = lambda: setattr(desk, "now_s", desk.now_s + desk.billing.takes_s)

    async def served() -> str:
        draw = await desk.draw()
        desk.purse.give_back(draw)
        return draw.hold_id

    await served()
    desk.billing.takes_s = 20 if heard == "grant" else 0
    lease = await served()
    if heard == "statement":
        desk.now_s += 25
        assert await served() == lease
        desk.billing.takes_s = 20
        await desk.purse.state()
    desk.billing.takes_s = 0
    desk.now_s += 9
    assert await served() == lease
    desk.now_s += 2
    assert await served() != lease


async def test_a_lease_that_a_statement_overtook_is_drawn_from(desk: Desk):
    """Billing said `gone` of what it granted a moment later."""
    desk.purse.give_back(await desk.draw())
    desk.billing.gone = True
    desk.billing.pause_s = 0.05
    drawing = asyncio.create_task(desk.draw())
    await asyncio.sleep(0)
    await desk.purse.state()
    desk.billing.gone = False
    assert not (await drawing).closes_hold
    asked = len(desk.billing.asks)
    await desk.draw()
    assert len(desk.billing.asks) == asked


async def test_the_last_words_give_everything_back(desk: Desk):
    """Nothing runs: nothing is listed."""
    draw = await desk.shared()
    desk.purse.give_back(draw)
    await desk.purse.drain()
    assert desk.billing.stated[-1] == {}
    assert draw.hold_id in desk.billing.ended


async def test_customers_that_are_gone_leave_nothing_behind(desk: Desk):
    """A million customers a day must not fill the memory."""
    book = LeaseBook(billing=desk.billing, clock=lambda: desk.now_s)
    for number in range(100):
        book.wallet(f"customer-{number}").need(1, now_s=desk.now_s)
    desk.now_s += IDLE_S
    await book.tidy()
    assert not book._wallets


@pytest.mark.parametrize("closes", [True, False])
def test_the_void_of_a_broken_request_ends_only_a_lease_of_its_own(closes: bool):
    """A shared one holds other requests' money."""
    started = usage_pb2.UsageRecorded(request_id=str(uuid4()), hold_id=str(uuid4()), closes_hold=closes)
    void = voided(started)
    assert (void.kind, void.closes_hold) == (usage_pb2.USAGE_KIND_VOID, closes)


async def test_a_refill_that_is_late_at_a_drain_is_given_up_and_waited_for(desk: Desk, monkeypatch):
    """Listed on, it would keep the spender from ending, and lie held for half an hour once it is granted."""
    monkeypatch.setattr("services.edge.spending.purse.RETRY_STATEMENT_S", 0.05)
    monkeypatch.setattr("services.edge.spending.lease_book.LATE_GRANT_S", 0.05)
    draws = [await desk.shared()]
    desk.billing.pause_s = 60
    while len(desk.billing.asks) < 3:
        draws.append(await desk.draw())
        await asyncio.sleep(0)
    assert desk.billing.asks[-1]["spare"]
    for draw in draws:
        desk.purse.give_back(draw)
    await desk.purse.drain()
    assert desk.purse.open_count == 0
    assert desk.billing.stated[-1] == {}
