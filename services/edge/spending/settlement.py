"""Settlement: a started request ends with exactly one record in the spool, whatever is cancelled or fails.

A `Tab` is one request's account with us. It is opened, with *started* in the spool, before the provider is called, and
closed once, with *finished* (a whole `UsageRecorded`) in the spool, in the loop turn that hands over the last bytes.
Everything in `close` is synchronous: no cancellation can come between its parts.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias
from uuid import UUID

import structlog
from msgspec.structs import astuple
from structlog.typing import FilteringBoundLogger

from chassis.ids import text_of, uuid7
from pricing.charge import ChargeOutOfRange, charge_nano_usd, provider_cost_nano_usd
from pricing.prices import PriceVersion
from pricing.tokens import Tokens, Units
from services.edge.spending.purse import Draw, Purse
from services.edge.spool.spool import Kind
from tollbridge.usage.v1 import usage_pb2
from upstream.route import Route

Ended: TypeAlias = usage_pb2.Ended.ValueType
ENDED_COMPLETE = usage_pb2.ENDED_COMPLETE
ENDED_CLIENT_GONE = usage_pb2.ENDED_CLIENT_GONE
ENDED_UPSTREAM_FAILED = usage_pb2.ENDED_UPSTREAM_FAILED
ENDED_GATEWAY_FAILED = usage_pb2.ENDED_GATEWAY_FAILED
EVIDENCE_PROVIDER = usage_pb2.EVIDENCE_PROVIDER
EVIDENCE_COUNTED = usage_pb2.EVIDENCE_COUNTED
MAX_PRICES = 1024
MAX_GENERATION_ID = 200


class Journal(Protocol):
    """Where records go (`services.edge.spool.spool.Spool`)."""

    @property
    def has_room(self) -> bool: ...

    @property
    def always(self) -> bool: ...

    def append(self, kind: Kind, key: bytes, payload: bytes) -> None: ...

    async def synced(self) -> None: ...


class Outbox(Protocol):
    """Who carries finished records to billing (`services.edge.spending.publisher.Publisher`)."""

    @property
    def has_room(self) -> bool: ...

    def add(self, event: usage_pb2.UsageRecorded, *, payload: bytes, key: bytes) -> None: ...

    def find(self, request_id: str) -> usage_pb2.UsageRecorded | None: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a request when it arrives. `arrived_s` is the loop's clock, `started_at_us` the wall's."""

    request_id: UUID
    customer_id: str
    key_id: str
    operation: str
    stream: bool
    started_at_us: int
    arrived_s: float
    traceparent: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a request is charged for, and where the counts come from."""

    tokens: Tokens
    units: Units
    evidence: usage_pb2.Evidence.ValueType
    reported_cost_nano_usd: int | None = None
    generation_id: str = ""
    implausible: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a request ended. Without `use` nothing is known of what the provider did."""

    ended: Ended
    http_status: int
    use: Use | None = None
    charged: bool = False
    policy: str = ""
    first_byte_s: float | None = None


class Settlement:
    """Opens and closes tabs over one spool, one purse and one outbox."""

    def __init__(self, *, spool: Journal, purse: Purse, outbox: Outbox) -> None:
        self._spool = spool
        self._purse = purse
        self._outbox = outbox
        self._log: FilteringBoundLogger = structlog.get_logger()
        self._spender = str(purse.spender)
        self._price_ids: dict[int, tuple[PriceVersion, str]] = {}
        self._open: dict[str, usage_pb2.UsageRecorded] = {}

    @property
    def has_room(self) -> bool:
        """Whether another request can be taken without risk of losing its record."""
        return self._spool.has_room and self._outbox.has_room

    def unsettled(self, request_id: str) -> usage_pb2.UsageRecorded | None:
        """What is known of a request that runs here, or whose event billing has not confirmed."""
        return self._open.get(request_id) or self._outbox.find(request_id)

    def tab(self, facts: Facts) -> "Tab":
        """A tab for one request, not open yet."""
        return Tab(
            facts=facts,
            spool=self._spool,
            purse=self._purse,
            outbox=self._outbox,
            spender=self._spender,
            running=self._open,
            price_id=self._price_id,
            log=self._log,
        )

    def adopt(self, event: usage_pb2.UsageRecorded) -> None:
        """Sees to an end that another process had worked out, and may have died before it wrote it down.

        Billing applies it once. This process' own are in its spool already, and so is one that it has adopted, however
        often it is asked for. The void that a replay makes of its beginning, with the same id, is not it. Raises
        nothing: without a disk it is still on its way.
        """
        known = self._outbox.find(event.request_id)
        is_known = known is not None and (known.event_id, known.kind) == (event.event_id, event.kind)
        if is_known or event.spender == self._spender:
            return
        key, payload = UUID(event.request_id).bytes, event.SerializeToString()
        try:
            self._spool.append(Kind.FINISHED, key, payload)
        except OSError as error:
            self._log.error("spool_failed", request_id=event.request_id, reason=str(error))
        self._outbox.add(event, payload=payload, key=key)

    def _price_id(self, price: PriceVersion) -> str:
        """The name of a price, hashed once: there are as many as the config has had versions of.

        Found by the object, of which a version has one: to hash its content would take as long as all the rest.
        """
        known = self._price_ids.get(id(price))
        if known is None:
            if len(self._price_ids) >= MAX_PRICES:
                self._price_ids.clear()
            known = self._price_ids[id(price)] = (price, price.id)  # and keeps it, so that its identity stays its own
        return known[1]


class Tab:
    """One request from its first draw to its one record."""

    __slots__ = (
        "_facts",
        "_key",
        "_log",
        "_outbox",
        "_price_id",
        "_purse",
        "_request_id",
        "_running",
        "_spender",
        "_spool",
        "charge",
        "closed",
        "draw",
        "event",
        "route",
    )

    def __init__(
        self,
        *,
        facts: Facts,
        spool: Journal,
        purse: Purse,
        outbox: Outbox,
        spender: str,
        running: dict[str, usage_pb2.UsageRecorded],
        price_id: Callable[[PriceVersion], str],
        log: FilteringBoundLogger,
    ) -> None:
        self._price_id = price_id
        self._facts = facts
        self._key = facts.request_id.bytes
        self._request_id = text_of(facts.request_id)
        self._spender = spender
        self._spool = spool
        self._purse = purse
        self._outbox = outbox
        self._running = running
        self._log = log
        self.draw: Draw | None = None
        self.route: Route | None = None
        self.event: usage_pb2.UsageRecorded | None = None
        self.charge = 0
        self.closed = False

    @property
    def charged(self) -> bool:
        """Whether it was closed with a charge."""
        return self.closed and self.event is not None and self.event.kind == usage_pb2.USAGE_KIND_CHARGE

    async def open(self, *, route: Route, draw: Draw) -> None:
        """Takes over the draw and writes *started*; again for a later attempt. The provider is called after this."""
        if self.closed:
            raise RuntimeError("the tab is closed")
        if self.draw is not None and self.draw is not draw:
            self._purse.give_back(self.draw)
        self.draw, self.route = draw, route
        self.event = self._started(route, draw)
        self._running[self._request_id] = self.event
        payload = self.event.SerializeToString()
        self._spool.append(Kind.STARTED, self._key, payload)
        if self._spool.always:
            await self._spool.synced()

    def price(self, use: Use) -> int:
        """What the customer pays for this use, in nano-USD. Raises ChargeOutOfRange."""
        if self.route is None:
            raise RuntimeError("the tab is not open")
        return charge_nano_usd(
            use.tokens, use.units, self.route.price, reported_cost_nano_usd=use.reported_cost_nano_usd
        )

    def close(self, ending: Ending, *, now_s: float) -> None:
        """Writes *finished*, settles the purse and hands the event on. A tab that never opened leaves no record.

        The first call counts; later ones do nothing. One that raises leaves the tab as it was.
        """
        if self.closed:
            return
        if self.route is None or self.draw is None or self.event is None:
            self.closed = True
            return
        event = self.event
        try:
            self._fill(event, ending, now_s=now_s)
        except Exception:  # no count of this end may be left for the next one to tell
            self.event = self._running[self._request_id] = self._started(self.route, self.draw)
            self.event.event_id = event.event_id
            raise
        self.closed = True
        self.charge = event.charge_nano_usd
        payload = event.SerializeToString()
        try:
            self._spool.append(Kind.FINISHED, self._key, payload)
        except OSError as error:  # the disk fails: the event is still on its way, it only can't survive us
            self._log.error("spool_failed", request_id=self._request_id, reason=str(error))
        self._purse.settled(self.draw, spent_nano_usd=self.charge)
        self._outbox.add(event, payload=payload, key=self._key)
        self._running.pop(self._request_id, None)

    def note(self, ending: Ending, *, now_s: float) -> None:
        """Writes how this request ends should we die before it is closed: the client has left, and has had so much.

        Raises OSError.
        """
        event = self.preview(ending, now_s=now_s)
        if event is None:
            return
        payload = event.SerializeToString()
        self._spool.append(Kind.NOTE, self._key, payload)

    def preview(self, ending: Ending, *, now_s: float) -> usage_pb2.UsageRecorded | None:
        """The event that this end would make; None where there is nothing to end."""
        if self.closed or self.event is None:
            return None
        event = usage_pb2.UsageRecorded()
        event.CopyFrom(self.event)
        self._fill(event, ending, now_s=now_s)
        return event

    def _started(self, route: Route, draw: Draw) -> usage_pb2.UsageRecorded:
        facts = self._facts
        return usage_pb2.UsageRecorded(
            event_id=text_of(uuid7()),
            request_id=self._request_id,
            customer_id=facts.customer_id,
            key_id=facts.key_id,
            hold_id=draw.hold_id,
            closes_hold=draw.closes_hold,
            spender=self._spender,
            price_version=self._price_id(route.price),
            model=route.model,
            operation=facts.operation,
            stream=facts.stream,
            provider_id=route.provider_id,
            provider_account_id=route.provider_account_id,
            provider_model=route.provider_model,
            provider_reported_cost_nano_usd=-1,
            first_byte_ms=-1,
            started_at_us=facts.started_at_us,
            traceparent=facts.traceparent,
        )

    def _fill(self, event: usage_pb2.UsageRecorded, ending: Ending, *, now_s: float) -> None:
        charge = self.price(ending.use) if ending.charged and ending.use is not None else 0
        event.kind = usage_pb2.USAGE_KIND_CHARGE if ending.charged else usage_pb2.USAGE_KIND_VOID
        event.ended = ending.ended
        event.http_status = ending.http_status
        event.policy = ending.policy
        event.charge_nano_usd = charge
        event.latency_ms = round((now_s - self._facts.arrived_s) * 1000)
        if ending.first_byte_s is not None:
            event.first_byte_ms = round((ending.first_byte_s - self._facts.arrived_s) * 1000)
        event.ended_at_us = time.time_ns() // 1000
        if ending.use is not None:
            self._fill_use(event, ending.use)

    def _fill_use(self, event: usage_pb2.UsageRecorded, use: Use) -> None:
        if self.route is None:
            return
        _copy_counts(use.tokens, event.tokens)
        _copy_counts(use.units, event.units)
        event.evidence = use.evidence
        event.generation_id = use.generation_id[:MAX_GENERATION_ID].replace("\x00", "")
        event.implausible = use.implausible
        if use.reported_cost_nano_usd is not None:
            event.provider_reported_cost_nano_usd = use.reported_cost_nano_usd
        try:
            event.provider_cost_nano_usd = provider_cost_nano_usd(use.tokens, use.units, self.route.price)
        except ChargeOutOfRange:
            event.implausible = True  # for the house's books only; the charge has its own bound


def _copy_counts(counts: Tokens | Units, message: usage_pb2.Tokens | usage_pb2.Units) -> None:
    """Of a dozen counts most are 0, which a new message says anyway."""
    message.SetInParent()
    for name, count in zip(counts.__struct_fields__, astuple(counts), strict=True):
        if count:
            setattr(message, name, count)


def voided(started: usage_pb2.UsageRecorded) -> usage_pb2.UsageRecorded:
    """The end of a request whose process died before it could end it: nothing is charged, its hold is released."""
    void = usage_pb2.UsageRecorded()
    void.CopyFrom(started)
    void.kind = usage_pb2.USAGE_KIND_VOID
    void.ended = usage_pb2.ENDED_GATEWAY_FAILED
    void.charge_nano_usd = 0
    void.ended_at_us = time.time_ns() // 1000
    return void
