"""What the publisher forgets on billing's word, and what it keeps sending."""

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.routes import requests
from services.edge.spending import publisher as publishing
from services.edge.spending.publisher import EventState, Publisher
from tests.unit.edge.world import until
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

CHARGE, VOID = usage_pb2.USAGE_KIND_CHARGE, usage_pb2.USAGE_KIND_VOID
MISSING, COMMITTED = billing_pb2.EVENT_STATE_MISSING, billing_pb2.EVENT_STATE_COMMITTED
SET_ASIDE = billing_pb2.EVENT_STATE_DEAD_LETTERED


class Bus:
    """Loses everything, and takes its time with the first message when `slow` is set."""

    def __init__(self) -> None:
        self.slow: asyncio.Event | None = None
        self.messages = self.taken = self.refused = 0
        self.fails = False

    async def publish(self, subject: str, data: bytes, **_: object) -> None:
        self.messages += 1
        if self.fails:
            self.refused += 1
            raise TollbridgeError(Code.UNAVAILABLE, "the bus is away")
        if self.messages == 1 and self.slow is not None:
            await self.slow.wait()
        self.taken += 1


class Billing:
    """Knows of each event, by its id, what the test says; and gets what the bus lost."""

    def __init__(self) -> None:
        self.states: dict[str, EventState] = {}
        self.asked: list[str] = []
        self.recorded: list[str] = []
        self.has_batches = False
        self.batches = self.singles = 0

    async def confirm(self, events: Sequence[usage_pb2.UsageRecorded]) -> list[EventState]:
        self.singles += 1
        self.asked += [event.event_id for event in events]
        return [self.states.get(event.event_id, MISSING) for event in events]

    async def confirm_batches(self, batch_ids: Sequence[str]) -> list[bool]:
        self.batches += 1
        return [self.has_batches for _ in batch_ids]

    async def record_usage(self, events: Sequence[usage_pb2.UsageRecorded]) -> list[EventState]:
        self.recorded += [event.event_id for event in events]
        return [self.states.get(event.event_id, MISSING) for event in events]


class Desk:
    """A publisher with a request that was run twice."""

    def __init__(self) -> None:
        self.bus, self.billing = Bus(), Billing()
        self.forgotten: list[bytes] = []
        self.disk_fails = False
        self.former: list[str] = []
        self.confirmed: list[tuple[str, int]] = []
        self.request_id = uuid7()
        self.publisher = Publisher(
            bus=self.bus, billing=self.billing, forget=self.forget, confirmed=self.confirm, source="edge/0"
        )

    def confirm(self, hold_id: str, charge_nano_usd: int, _set_aside: bool) -> None:
        self.confirmed.append((hold_id, charge_nano_usd))

    def forget(self, keys: Iterable[bytes]) -> None:
        if self.disk_fails:
            self.disk_fails = False
            self.add("charge")
            raise OSError(28, "no space")
        self.forgotten += keys

    def add(
        self,
        name: str,
        *,
        former: bool = False,
        kind: usage_pb2.UsageKind.ValueType = CHARGE,
        closes_hold: bool = False,
    ) -> None:
        event = usage_pb2.UsageRecorded(
            event_id=name,
            request_id=str(self.request_id),
            kind=kind,
            closes_hold=closes_hold,
            hold_id="lease",
            charge_nano_usd=7,
        )
        if former:
            self.publisher.add_former(event, forget=lambda: self.former.append(name))
        else:
            self.publisher.add(event, payload=event.SerializeToString(), key=self.request_id.bytes)

    async def drain(self) -> bool:
        return await self.publisher.drain(grace_s=0.3)

    async def ask_once(self) -> None:
        """One round of questions: no answer of this billing takes a turn of the loop."""
        await self.publisher.drain(grace_s=0)

    async def send_twice(self) -> None:
        """Has the first on its way in a batch that was asked about once and, its twin being set aside, singly, too."""
        self.add("first")
        await until(lambda: self.bus.taken == 1)
        self.bus.fails = True
        self.add("second")
        await until(lambda: self.bus.refused == 1)
        self.billing.states["second"] = SET_ASIDE
        await self.ask_once()
        await until(lambda: self.bus.refused == 2)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(publishing, "CONFIRM_EVERY_S", 0.01)
    monkeypatch.setattr(publishing, "BATCH_WAIT_S", 0.01)
    return Desk()


@pytest.mark.parametrize("first_is_former", [True, False])
async def test_an_end_whose_twin_was_set_aside_is_sent_until_billing_has_it(desk: Desk, *, first_is_former: bool):
    """Two runs of a request ended: that one end can't be right says nothing of the other, nor frees its spool."""
    desk.add("first", former=first_is_former)
    desk.add("second")
    desk.billing.states["second"] = SET_ASIDE
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        await until(lambda: "first" in desk.billing.recorded)
        assert desk.former == []
        assert desk.forgotten == ([desk.request_id.bytes] if first_is_former else [])
        desk.billing.states["first"] = COMMITTED
        assert await desk.drain()
        running.cancel()
    assert desk.former == (["first"] if first_is_former else [])
    assert desk.forgotten == [desk.request_id.bytes]


async def test_a_void_that_billing_has_forgets_no_charge_of_its_request(desk: Desk):
    """The spool forgets by request: it keeps the request until both of its ends are with billing."""
    desk.add("void", kind=VOID)
    desk.add("charge")
    desk.billing.states["void"] = COMMITTED
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        await until(lambda: "charge" in desk.billing.recorded)
        assert desk.forgotten == []
        desk.billing.states["charge"] = COMMITTED
        assert await desk.drain()
        running.cancel()
    assert desk.forgotten == [desk.request_id.bytes]


async def test_a_charge_that_comes_before_its_void_was_forgotten_is_not_forgotten_with_it(desk: Desk):
    """The disk refuses to forget the void, and meanwhile the request, which ran again, ends with a charge."""
    desk.disk_fails = True
    desk.add("void", kind=VOID)
    desk.billing.states["void"] = COMMITTED
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        await until(lambda: "charge" in desk.billing.recorded)
        assert desk.forgotten == []
        desk.billing.states["charge"] = COMMITTED
        assert await desk.drain()
        running.cancel()
    assert desk.forgotten == [desk.request_id.bytes]


@pytest.mark.parametrize("waits", [True, False], ids=["while it waits", "later"])
async def test_what_a_dead_sibling_had_adopted_of_ours_is_taken_from_our_lease_once(desk: Desk, *, waits: bool):
    """A sibling that answered from what we kept has our event in its spool, which is replayed here when it dies."""
    desk.billing.states["charge"] = COMMITTED
    desk.add("charge")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        assert waits or await desk.drain()
        desk.add("charge", former=True)
        assert await desk.drain()
        running.cancel()
    assert desk.confirmed == [("lease", 7)]
    assert desk.former == ["charge"]


async def test_a_slow_message_of_an_event_that_was_replaced_holds_nothing_up(desk: Desk):
    """The same end comes from another process while ours is on its way: it is still confirmed, and forgotten."""
    desk.bus.slow = asyncio.Event()
    desk.add("first")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        await until(lambda: desk.bus.messages == 1)
        desk.add("second")
        await until(lambda: "second" in desk.billing.recorded)
        desk.bus.slow.set()
        await until(lambda: desk.bus.taken == desk.bus.messages)
        desk.billing.states["second"] = COMMITTED
        assert await desk.drain()
        running.cancel()
    assert desk.forgotten == [desk.request_id.bytes]


async def test_events_of_a_batch_that_billing_has_are_forgotten_without_asking_about_each(desk: Desk):
    """One question for hundreds of events."""
    desk.billing.has_batches = True
    desk.add("void", kind=VOID)
    desk.add("charge")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        assert await desk.publisher.drain(grace_s=20)
        running.cancel()
    assert desk.billing.batches > 0
    assert desk.billing.singles == 0
    assert set(desk.forgotten) == {desk.request_id.bytes}


async def test_a_hold_hears_of_a_whole_batch_once(desk: Desk):
    """All that was charged to it comes in one sum; of an end with a twin, and of another process', as ever."""
    desk.billing.has_batches = True
    keys = []
    for _ in range(5):
        desk.request_id = uuid7()
        keys.append(desk.request_id.bytes)
        desk.add("charge")
    desk.add("twin")
    desk.request_id = uuid7()
    desk.add("other", former=True)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        assert await desk.publisher.drain(grace_s=20)
        running.cancel()
    assert sorted(desk.confirmed) == [("lease", 7), ("lease", 7), ("lease", 28)]
    assert (sorted(desk.forgotten), desk.former) == (sorted(keys), ["other"])


async def test_no_message_is_larger_than_the_bus_takes(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Few large events fill a batch as well as many small ones."""
    monkeypatch.setattr(publishing, "BATCH_BYTES", 1)
    desk.billing.has_batches = True
    desk.add("void", kind=VOID)
    desk.add("charge")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        assert await desk.publisher.drain(grace_s=20)
        running.cancel()
    assert desk.bus.messages == 2


async def test_an_end_that_comes_while_billing_is_asked_about_its_twin_is_asked_about_too(desk: Desk):
    """Else it would wait, and its spool with it, until this process ends."""
    asked, answer = asyncio.Event(), asyncio.Event()
    confirm = desk.billing.confirm

    async def slow(events: Sequence[usage_pb2.UsageRecorded]) -> list[EventState]:
        asked.set()
        await answer.wait()
        return await confirm(events)

    desk.billing.confirm = slow  # type: ignore[method-assign]  # only its time changes
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        desk.add("first")
        await asked.wait()
        desk.bus.fails = True
        desk.add("second")
        await until(lambda: desk.bus.refused > 0)
        answer.set()
        await until(lambda: "second" in desk.billing.recorded)
        running.cancel()


async def test_what_billing_is_to_get_from_us_does_not_wait_because_its_batch_is_missing_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    """The bus refused it, so it is due: that it was also in a message of before, which was lost, is no new try."""
    monkeypatch.setattr(publishing, "RETRY_AFTER_S", (3600.0, 3600.0, 3600.0))
    monkeypatch.setattr(publishing, "CONFIRM_EVERY_S", 3600.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        await desk.send_twice()
        await desk.ask_once()
        assert desk.billing.recorded == ["first"]
        running.cancel()


async def test_what_billing_has_with_its_batch_is_not_asked_about_again(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Though it was to be asked about singly, too: else it would be in every round until this process ends."""
    monkeypatch.setattr(publishing, "CONFIRM_EVERY_S", 3600.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        await desk.send_twice()
        desk.billing.has_batches = True
        await desk.ask_once()
        running.cancel()
    assert (desk.billing.asked, desk.billing.recorded) == (["second"], [])
    assert (desk.confirmed, desk.forgotten) == ([("lease", 7)] * 2, [desk.request_id.bytes])


async def test_a_hold_that_ends_with_its_event_does_not_wait_for_a_batch_to_fill_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    """The customer's next request may be waiting for what it sets free, two seconds at most."""
    monkeypatch.setattr(publishing, "BUSY_WAIT_S", 3600.0)
    monkeypatch.setattr(publishing, "BUSY_EVENTS", 1)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.publisher.run())
        desk.add("void", kind=VOID)
        desk.add("charge", closes_hold=True)
        await until(lambda: desk.bus.taken > 0)
        running.cancel()


def test_a_receipt_is_waited_for_longer_than_a_busy_edge_keeps_its_event():
    """Asked of another edge, a request that has just ended must not seem unknown."""
    assert requests.WAIT_S > publishing.BUSY_WAIT_S + 1.0
