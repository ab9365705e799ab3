"""The publisher: carries finished records from the spool to billing, and forgets each once billing has it.

Way one is the bus, in batches. Way two is billing's own RPC: for what the bus refused, at once, and for what it took
and lost three times. Only billing's word (`Confirm`) ends an event; until then it stays in the spool, which outlives
this process, and in memory here, bounded by LIMIT: beyond that edge takes no new requests. Everything may be sent
twice, since billing applies a request's charge, and its void, once.
"""

import asyncio
import collections
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import structlog

from chassis.errors import Code, TollbridgeError
from chassis.ids import uuid7
from services.edge.events import USAGE_RECORDED, USAGE_RECORDED_TYPE
from services.edge.spending.usage_batch import Batch, Pending, encoded
from tollbridge.billing.v1 import billing_pb2
from tollbridge.usage.v1 import usage_pb2

BATCH = 500
"""Events that billing applies in one transaction."""
BATCH_BYTES = 512 << 10
"""A message may be twice as large, and an event a few KiB."""
BATCH_WAIT_S = 0.25
BUSY_WAIT_S = 1.0
BUSY_EVENTS = 8
"""So many events within BATCH_WAIT_S: then it pays to wait for more."""
WORKERS = 4
CONFIRM_EVERY_S = 2.0
CONFIRM_BATCH = 1000
RECORD_BATCH = 500
CONFIRM_AT_ONCE = 10_000
"""Events that one round asks about: those that were not asked about for longest."""
RETRY_AFTER_S = (4.0, 15.0, 60.0)
"""How long billing may not know of an event after its first, second and any later try, until the next one."""
DRAIN_PAUSE_S = 0.05
MAX_TRIES = 3
LIMIT = 200_000
KINDS = (usage_pb2.USAGE_KIND_CHARGE, usage_pb2.USAGE_KIND_VOID)
PUBLISH_TIMEOUT_S = 5.0
MAX_PAUSE_S = 5.0

EventState: TypeAlias = billing_pb2.EventState.ValueType
_ARRIVED = frozenset({billing_pb2.EVENT_STATE_COMMITTED, billing_pb2.EVENT_STATE_DEAD_LETTERED})


class Bus(Protocol):
    """What is asked of the bus (`chassis.bus.Bus`)."""

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        event_id: str,
        event_type: str,
        source: str,
        traceparent: str = "",
        timeout_s: float = 5.0,
    ) -> None: ...


class Recorder(Protocol):
    """What is asked of billing (`owners.BillingOwner`)."""

    async def confirm(self, events: Sequence[usage_pb2.UsageRecorded]) -> list[EventState]: ...

    async def confirm_batches(self, batch_ids: Sequence[str]) -> list[bool]: ...

    async def record_usage(self, events: Sequence[usage_pb2.UsageRecorded]) -> list[EventState]: ...


class Publisher:
    """One incarnation's outgoing events. Its owner runs `run()` as a task and calls `drain()` before cancelling it."""

    def __init__(
        self,
        *,
        bus: Bus,
        billing: Recorder,
        forget: Callable[[Iterable[bytes]], None],
        confirmed: Callable[[str, int, bool], None],
        source: str,
    ) -> None:
        self._bus = bus
        self._billing = billing
        self._forget = forget
        self._confirmed = confirmed
        self._source = source
        self._pending: dict[tuple[str, int], Pending] = {}
        self._fresh: collections.deque[Pending] = collections.deque()
        self._sent: dict[tuple[str, int], Pending] = {}  # tried, by when billing was last asked about them
        self._batches: dict[str, Batch] = {}  # tried, and asked about together
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._pause_s = 0.0
        self._settled: dict[str, bytes] = {}  # requests that billing has, and their keys in the spool
        self._log = structlog.get_logger()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def has_room(self) -> bool:
        """False when so much waits for billing that no new request may be taken."""
        return len(self._pending) < LIMIT

    def find(self, request_id: str) -> usage_pb2.UsageRecorded | None:
        """The event of a request, while billing has not confirmed it."""
        for kind in KINDS:
            if (pending := self._pending.get((request_id, kind))) is not None:
                return pending.event
        return None

    def add(self, event: usage_pb2.UsageRecorded, *, payload: bytes, key: bytes) -> None:
        """Takes over an event that is in this incarnation's spool, there as `payload`, under its request's `key`."""
        self._add(event, None, payload, key)

    def add_former(self, event: usage_pb2.UsageRecorded, *, forget: Callable[[], None]) -> None:
        """Takes over an event of a former incarnation; `forget` is called when billing has it."""
        self._add(event, forget, event.SerializeToString(), b"")

    def _add(
        self, event: usage_pb2.UsageRecorded, former: Callable[[], None] | None, payload: bytes, spool_key: bytes
    ) -> None:
        key = event.request_id, event.kind
        pending = self._pending[key] = Pending(
            payload,
            key,
            spool_key,
            event.hold_id,
            event.charge_nano_usd,
            event.closes_hold,
            former,
            self._pending.get(key),
        )
        self._try(pending)

    def _try(self, pending: Pending) -> None:
        self._fresh.append(pending)
        self._wake.set()
        if len(self._fresh) >= BATCH:
            self._full.set()

    async def run(self) -> None:
        """Publishes and confirms until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._publish_forever())
            group.create_task(self._confirm_forever())

    async def drain(self, *, grace_s: float) -> bool:
        """Waits until billing has everything, at most `grace_s`; what is left then is in the spool. True when all."""
        try:
            async with asyncio.timeout(grace_s):
                while self._pending:
                    await self._confirm_once()
                    await asyncio.sleep(DRAIN_PAUSE_S if self._pending else 0)
        except TimeoutError:
            self._log.warning("events_left_in_spool", events=len(self._pending))
        return not self._pending

    async def _publish_forever(self) -> None:
        while True:
            await self._wake.wait()
            if len(self._fresh) < BATCH:
                await self._fill()
            batch = self._take()
            if not self._fresh:
                self._wake.clear()
            if len(self._fresh) < BATCH:
                self._full.clear()
            if batch:
                await self._publish(batch)

    async def _fill(self) -> None:
        """Waits for a batch to fill up, but not for long: a busy edge longer, as each batch is work for everybody.

        Not where an event ends its hold: its customer's next request may wait for what that sets free.
        """
        waited_s = 0.0
        while not await self._is_full(BATCH_WAIT_S):
            waited_s += BATCH_WAIT_S
            is_busy = len(self._fresh) >= BUSY_EVENTS and waited_s < BUSY_WAIT_S
            if not is_busy or any(each.closes_hold for each in self._fresh):
                return

    async def _is_full(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                return await self._full.wait()
        except TimeoutError:
            return False

    def _take(self) -> list[Pending]:
        batch: list[Pending] = []
        size = 0
        while self._fresh and len(batch) < BATCH and size < BATCH_BYTES:
            batch.append(self._fresh.popleft())
            size += len(batch[-1].payload)
        return batch

    async def _publish(self, batch: list[Pending]) -> None:
        batch_id, first = str(uuid7()), batch[0].event
        data = encoded(batch_id, [each.payload for each in batch])
        try:
            await self._bus.publish(
                USAGE_RECORDED,
                data,
                event_id=batch_id,  # never the event's: its request's void may have the same, and would pass for it
                event_type=USAGE_RECORDED_TYPE,
                source=self._source,
                traceparent=first.traceparent,
                timeout_s=PUBLISH_TIMEOUT_S,
            )
        except TollbridgeError as error:
            self._pass_by_the_bus(batch)
            self._pause_s = min(max(self._pause_s * 2, 0.2), MAX_PAUSE_S)
            self._log.warning("publish_failed", events=len(batch), waiting=len(self._pending), code=error.code.value)
            await asyncio.sleep(self._pause_s)
            return
        self._batches[batch_id] = Batch(batch, asyncio.get_running_loop().time())
        self._pause_s = 0.0

    @staticmethod
    def _tried(batch: Iterable[Pending], *, at_s: float) -> None:
        for each in batch:
            each.due_s = at_s + RETRY_AFTER_S[min(each.tries, MAX_TRIES - 1)]
            each.tries += 1

    def _ask_singly(self, batch: Iterable[Pending]) -> None:
        for each in batch:
            if self._waits(each):
                self._sent[each.key] = each

    async def _confirm_forever(self) -> None:
        while True:
            await asyncio.sleep(CONFIRM_EVERY_S)
            while await self._confirm_once():
                continue

    async def _confirm_once(self) -> bool:
        """Asks about what was sent, and sends what is overdue; True when it got on and has not asked about all."""
        if self._pause_s >= 1.0:
            self._pass_by_the_bus(list(self._fresh))
            self._fresh.clear()
            self._wake.clear()
        before = len(self._pending)
        asked: list[Pending] = []
        overdue: list[Pending] = []
        try:
            await self._confirm_batches()
            asked = list(itertools.islice(self._sent.values(), CONFIRM_AT_ONCE))
            for start in range(0, len(asked), CONFIRM_BATCH):
                overdue += await self._confirm(asked[start : start + CONFIRM_BATCH])
            await self._again(overdue)
        except TollbridgeError as error:
            self._log.warning("confirm_failed", waiting=len(self._pending), code=error.code.value)
            return False
        finally:
            self._forget_settled()
        return len(asked) == CONFIRM_AT_ONCE and len(self._pending) < before

    def _pass_by_the_bus(self, batch: Iterable[Pending]) -> None:
        """The bus is down: the next round gives these to billing itself, unless it has them all the same."""
        batch = list(batch)
        for each in batch:
            each.tries, each.due_s = MAX_TRIES, 0.0
        self._ask_singly(batch)

    def _forget_settled(self) -> None:
        """Frees the spool of requests that billing has; when the disk refuses, the next round tries again.

        The spool forgets by request: one of which another event of ours waits by now is forgotten with that.
        """
        settled = [key for request_id, key in self._settled.items() if not self._has_ours(request_id)]
        try:
            if settled:
                self._forget(settled)
        except OSError as error:
            self._log.error("spool_forget_failed", events=len(settled), reason=str(error))
            return
        self._settled.clear()

    def _waits(self, each: Pending) -> bool:
        return self._pending.get(each.key) is each

    async def _confirm_batches(self) -> None:
        """Asks about whole batches; the events of one that billing lacks again are asked about singly from now on."""
        asked = list(itertools.islice(self._batches, CONFIRM_BATCH))
        if not asked:
            return
        committed = await self._billing.confirm_batches(asked)
        for batch_id, is_committed in zip(asked, committed, strict=True):
            batch = self._batches.get(batch_id)
            if batch is None:  # another round has ended it meanwhile
                continue
            if is_committed:
                self._all_committed(batch.events)
            elif not batch.asked:
                batch.asked = True
                continue
            else:  # one that is asked about singly already has its own time
                lost = [each for each in batch.events if self._sent.get(each.key) is not each]
                self._tried(lost, at_s=batch.sent_s)
                self._ask_singly(lost)
            del self._batches[batch_id]

    def _all_committed(self, events: Iterable[Pending]) -> None:
        """What `_done` does for each of them, with one word to each hold for the plain ones, as nearly all are."""
        charged: dict[str, int] = {}
        pending = self._pending
        for each in events:
            key = each.key
            if each.former is not None or each.twin is not None or key in self._sent or pending.get(key) is not each:
                self._done(each, billing_pb2.EVENT_STATE_COMMITTED)
                continue
            del pending[key]
            self._settled[key[0]] = each.spool_key
            charged[each.hold_id] = charged.get(each.hold_id, 0) + each.charge_nano_usd
        for hold_id, charge_nano_usd in charged.items():
            self._confirmed(hold_id, charge_nano_usd, False)

    async def _confirm(self, batch: list[Pending]) -> list[Pending]:
        """Asks about these; returns those that billing should have known by now."""
        states = await self._billing.confirm([each.event for each in batch])
        now_s = asyncio.get_running_loop().time()
        overdue: list[Pending] = []
        for each, state in zip(batch, states, strict=True):
            if self._done(each, state) or self._sent.get(each.key) is not each:
                continue
            self._sent[each.key] = self._sent.pop(each.key)
            if each.due_s <= now_s:
                overdue.append(each)
        return overdue

    async def _again(self, overdue: list[Pending]) -> None:
        """By the bus, or by billing's RPC what it could not bring in three tries."""
        for each in overdue:
            if each.tries < MAX_TRIES and self._sent.get(each.key) is each:
                self._try(self._sent.pop(each.key))
        last = [each for each in overdue if each.tries >= MAX_TRIES]
        for start in range(0, len(last), RECORD_BATCH):
            await self._record(last[start : start + RECORD_BATCH])

    async def _record(self, batch: list[Pending]) -> None:
        try:
            states = await self._billing.record_usage([each.event for each in batch])
        except TollbridgeError as error:
            if error.code is Code.UNAVAILABLE:
                raise
            self._log.error("record_usage_failed", events=len(batch), code=error.code.value)
            self._tried(batch, at_s=asyncio.get_running_loop().time())
            self._ask_singly(batch)
            return
        left = [each for each, state in zip(batch, states, strict=True) if not self._done(each, state)]
        self._tried(left, at_s=asyncio.get_running_loop().time())
        self._ask_singly(left)

    def _done(self, each: Pending, state: EventState) -> bool:
        """Forgets an event that billing has; True when it has. One that was set aside there is an operator's now."""
        if state not in _ARRIVED:
            return False
        if not self._waits(each):
            return True
        set_aside = state == billing_pb2.EVENT_STATE_DEAD_LETTERED
        del self._pending[each.key]
        self._sent.pop(each.key, None)
        event_id = self._set_aside(each) if set_aside else ""
        done: Pending | None = each
        while done is not None and (not set_aside or done.event.event_id == event_id):
            if done.former is None:
                self._settled[done.key[0]] = done.spool_key
                self._confirmed(done.hold_id, done.charge_nano_usd, set_aside)
            else:  # no draw of ours: a sibling that has died may have adopted even an event of our own
                done.former()
            done = done.twin
        if done is not None:  # of two ends only one was set aside: the other may be right
            self._pending[done.key] = done
            self._try(done)
        return True

    def _set_aside(self, each: Pending) -> str:
        """Tells the operator; the event's own id."""
        event = each.event
        self._log.error("event_dead_lettered", request_id=event.request_id, event_id=event.event_id)
        return event.event_id

    def _has_ours(self, request_id: str) -> bool:
        """Whether an event of the request waits that is in our own spool."""
        for kind in KINDS:
            each = self._pending.get((request_id, kind))
            if each is not None and each.has_ours:
                return True
        return False
