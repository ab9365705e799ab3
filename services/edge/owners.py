"""Edge's questions to the other services: one method per intent, domain values back, over their pipes.

Nothing is decided here and nothing is kept. Errors are `TollbridgeError` with the owner's code; an owner that can't be
reached is UNAVAILABLE within the timeouts below, so that a client waits about a second for a 503, never longer.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

import structlog
from google.protobuf.message import Message

from chassis.errors import Code, TollbridgeError
from chassis.ids import now_floor
from chassis.pipe import PipeClient
from pricing.prices import PriceVersion
from services.edge.limits.limit_owner import terms_of
from services.edge.limits.terms import Terms
from services.edge.spending import statements
from services.edge.spending.spend_caps import SpendCap, caps_of, to_wire
from services.edge.spending.wallet import LeaseState
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2
from upstream import decision
from upstream.attempt import Tried
from upstream.route import Route

State = TypeVar("State")
R = TypeVar("R", bound=Message)

AUTHORIZE_TIMEOUT_S = 0.9
DECIDE_TIMEOUT_S = 12.0
"""Router may wait `slots.wait_s` for a slot."""
UNREACHABLE_TIMEOUT_S = 0.9
"""For those calls that may take long: how long to wait for an owner none of whose replicas is there."""
GRANT_TIMEOUT_S = 3.0
"""Billing may wait 2 s for the customer's own running requests to release credit."""
STATE_TIMEOUT_S = 5.0
"""Statements and returns: late is harmless, and each is made anew when it failed."""
RECORD_TIMEOUT_S = 10.0
MAX_KEEP_S = 1.0
MAX_PRICES = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Who asks and what they may use. `models` empty is all; `keep_s` is how long this may be believed.

    `limits` is None where nothing is limited.
    """

    customer_id: str
    key_id: str
    plan: str
    models: frozenset[str]
    caps: tuple[SpendCap, ...] = ()
    limits: Terms | None = None
    keep_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A credit lease as billing granted it; `ttl_s` is how long it lives without a statement."""

    hold_id: str
    amount_nano_usd: int
    ttl_s: float


class AuthOwner:
    """Auth."""

    def __init__(self, *, pipe: PipeClient) -> None:
        self._pipe = pipe

    async def authorize(self, *, api_key: str, client_ip: str, traceparent: str = "") -> Authority:
        """Raises INVALID_API_KEY, CUSTOMER_SUSPENDED, ADDRESS_NOT_ALLOWED."""
        reply = await self._pipe.call(
            "Authorize",
            auth_pb2.AuthorizeRequest(api_key=api_key, client_ip=client_ip),
            auth_pb2.AuthorizeResponse,
            key=api_key,
            timeout_s=AUTHORIZE_TIMEOUT_S,
            traceparent=traceparent,
        )
        return Authority(
            customer_id=reply.customer_id,
            key_id=reply.key_id,
            plan=reply.plan,
            models=frozenset(reply.models),
            caps=caps_of(reply),
            limits=terms_of(reply),
            keep_s=min(reply.keep_ms / 1000, MAX_KEEP_S),
        )


class RouterOwner:
    """Router."""

    def __init__(self, *, pipe: PipeClient, spender: UUID) -> None:
        self._pipe = pipe
        self._spender = str(spender)
        self._prices: dict[bytes, PriceVersion] = {}

    async def decide(
        self,
        *,
        request_id: str,
        attempt_id: str,
        model: str,
        operation: str,
        tried: Sequence[Tried],
        traceparent: str = "",
    ) -> Route:
        """The route of the next attempt; ends those in `tried`.

        Raises MODEL_NOT_FOUND, PROVIDER_NOT_CONFIGURED, OVERLOADED.
        """
        reply = await _patiently(
            self._pipe,
            "Decide",
            router_pb2.DecideRequest(
                request_id=request_id,
                attempt_id=attempt_id,
                spender=self._spender,
                model=model,
                operation=operation,
                tried=[decision.outcome(each) for each in tried],
            ),
            router_pb2.DecideResponse,
            key=request_id,
            timeout_s=DECIDE_TIMEOUT_S,
            traceparent=traceparent,
        )
        return decision.route(reply, price=self._price(reply.price))

    def _price(self, price: router_pb2.PriceVersion) -> PriceVersion:
        """The price in pricing's form; the same object for the same price."""
        content = price.SerializeToString()
        known = self._prices.get(content)
        if known is None:
            if len(self._prices) >= MAX_PRICES:
                self._prices.clear()
            known = self._prices[content] = decision.price(price)
        return known

    async def finish_attempt(self, *, request_id: str, attempt: Tried) -> None:
        """Gives the attempt's slot back; nothing follows it."""
        await self._pipe.call(
            "FinishAttempt",
            router_pb2.FinishAttemptRequest(request_id=request_id, outcome=decision.outcome(attempt)),
            router_pb2.FinishAttemptResponse,
            key=request_id,
            timeout_s=STATE_TIMEOUT_S,
        )

    async def state_attempts(self, attempt_ids: Sequence[str], *, as_of: str, spender: str = "") -> float:
        """The full statement as of then, in pages; the seconds until the next is due.

        `spender` is a former incarnation that this one speaks for.
        """
        renew_in_s = 0.0
        for page in statements.pages(attempt_ids, id_of=str, as_of=as_of):
            reply = await self._pipe.call(
                "StateAttempts",
                router_pb2.StateAttemptsRequest(
                    spender=spender or self._spender,
                    as_of=as_of,
                    from_id=page.from_id,
                    until_id=page.until_id,
                    attempt_ids=page.listed,
                ),
                router_pb2.StateAttemptsResponse,
                key=spender or self._spender,
                timeout_s=STATE_TIMEOUT_S,
            )
            renew_in_s = reply.renew_in_s
        return renew_in_s


class BillingOwner:
    """Billing."""

    def __init__(self, *, pipe: PipeClient, spender: UUID) -> None:
        self._pipe = pipe
        self._spender = str(spender)
        self._log = structlog.get_logger()

    async def grant_lease(
        self,
        *,
        hold_id: str,
        customer_id: str,
        request_id: str,
        amount_nano_usd: int,
        least_nano_usd: int,
        caps: Sequence[SpendCap],
        replaces_hold_id: str = "",
        wish_nano_usd: int = 0,
        spare: bool = False,
        traceparent: str = "",
    ) -> Granted:
        """Holds `amount`, or (with `least` > 0) what is affordable from `least` on. Raises INSUFFICIENT_CREDITS ...

        Up to the wish when the customer has plenty; a spare one only then. The replaced hold has ended when this
        returns, also by INSUFFICIENT_CREDITS.
        """
        reply = await _patiently(
            self._pipe,
            "GrantLease",
            billing_pb2.GrantLeaseRequest(
                hold_id=hold_id,
                customer_id=customer_id,
                spender=self._spender,
                amount_nano_usd=amount_nano_usd,
                least_nano_usd=least_nano_usd,
                request_id=request_id,
                replaces_hold_id=replaces_hold_id,
                caps=to_wire(caps),
                wish_nano_usd=wish_nano_usd,
                spare=spare,
            ),
            billing_pb2.GrantLeaseResponse,
            key=customer_id,
            timeout_s=GRANT_TIMEOUT_S,
            traceparent=traceparent,
        )
        return Granted(hold_id=hold_id, amount_nano_usd=reply.amount_nano_usd, ttl_s=reply.ttl_s)

    async def return_lease(self, *, hold_id: str) -> None:
        """Ends a lease of which nothing is open or spent."""
        await self._pipe.call(
            "ReturnLease",
            billing_pb2.ReturnLeaseRequest(hold_id=hold_id, spender=self._spender),
            billing_pb2.ReturnLeaseResponse,
            key=hold_id,
            timeout_s=STATE_TIMEOUT_S,
        )

    async def end(self) -> None:
        """The last statement: nothing of this incarnation is open or unconfirmed, and it asks for no more."""
        await self.state_leases([], as_of=str(now_floor()), spender=self._spender)

    async def state_leases(
        self, leases: Sequence[LeaseState], *, as_of: str, spender: str = "", only_these: bool = False
    ) -> tuple[float, list[str]]:
        """The full statement as of then, in pages; the seconds until the next is due, and the holds that have ended.

        Among these are those that billing keeps but does not believe us about: nothing more is to be drawn from them.
        `only_these`: it says nothing of other leases. `spender` is an incarnation that has ended, of which billing has
        everything.
        """
        renew_in_s = 0.0
        gone: list[str] = []
        for page in statements.pages(leases, id_of=lambda lease: lease.hold_id, as_of=as_of):
            reply = await self._pipe.call(
                "StateLeases",
                billing_pb2.StateLeasesRequest(
                    spender=spender or self._spender,
                    spender_ended=bool(spender),
                    as_of=as_of,
                    from_id=as_of if only_these else page.from_id,
                    until_id=page.until_id,
                    leases=[
                        billing_pb2.LeaseStatement(
                            hold_id=lease.hold_id,
                            open_nano_usd=lease.open_nano_usd,
                            spent_nano_usd=lease.spent_nano_usd,
                            free_nano_usd=lease.free_nano_usd,
                            returned_nano_usd=lease.returned_nano_usd,
                        )
                        for lease in page.listed
                    ],
                ),
                billing_pb2.StateLeasesResponse,
                key=spender or self._spender,
                timeout_s=STATE_TIMEOUT_S,
            )
            renew_in_s = reply.renew_in_s
            gone.extend(reply.gone)
            for refused in reply.refused:
                self._log.error("lease_refused", hold_id=refused.hold_id, reason=refused.reason)
                gone.append(refused.hold_id)
        return renew_in_s, gone

    async def confirm(self, events: Sequence[usage_pb2.UsageRecorded]) -> list[billing_pb2.EventState.ValueType]:
        """What billing knows of each event, in order; at most 1000."""
        reply = await self._pipe.call(
            "Confirm",
            billing_pb2.ConfirmRequest(
                keys=[
                    billing_pb2.EventKey(request_id=event.request_id, kind=event.kind, event_id=event.event_id)
                    for event in events
                ]
            ),
            billing_pb2.ConfirmResponse,
            timeout_s=RECORD_TIMEOUT_S,
        )
        return _one_each(reply.states, len(events))

    async def confirm_batches(self, batch_ids: Sequence[str]) -> list[bool]:
        """Whether billing has all of each batch, in order; at most 1000. One that knows of no batches has none."""
        reply = await self._pipe.call(
            "Confirm",
            billing_pb2.ConfirmRequest(batch_ids=batch_ids),
            billing_pb2.ConfirmResponse,
            timeout_s=RECORD_TIMEOUT_S,
        )
        return _one_each(reply.batches_committed or [False] * len(batch_ids), len(batch_ids))

    async def record_usage(self, events: Sequence[usage_pb2.UsageRecorded]) -> list[billing_pb2.EventState.ValueType]:
        """Applies events without the bus; at most 500."""
        reply = await self._pipe.call(
            "RecordUsage",
            billing_pb2.RecordUsageRequest(events=events),
            billing_pb2.RecordUsageResponse,
            timeout_s=RECORD_TIMEOUT_S,
        )
        return _one_each(reply.states, len(events))


def _one_each(states: Sequence[State], asked: int) -> list[State]:
    """A state for each event, or an error: one that is missing must not pass for an answer."""
    if len(states) != asked:
        raise TollbridgeError(Code.INTERNAL, f"billing gave {len(states)} states for {asked} events")
    return list(states)


async def _patiently(
    pipe: PipeClient,
    method: str,
    request: Message,
    response_type: type[R],
    *,
    key: str,
    timeout_s: float,
    traceparent: str,
) -> R:
    """A call whose owner may think for long; given up early when no replica of it is there to think."""
    loop = asyncio.get_running_loop()
    patience = asyncio.timeout(timeout_s + UNREACHABLE_TIMEOUT_S)
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        if not pipe.reachable:
            patience.reschedule(loop.time())
        else:
            timer = loop.call_later(UNREACHABLE_TIMEOUT_S, look)

    timer = loop.call_later(UNREACHABLE_TIMEOUT_S, look)
    try:
        async with patience:
            return await pipe.call(
                method, request, response_type, key=key, timeout_s=timeout_s, traceparent=traceparent
            )
    except TimeoutError:
        raise TollbridgeError(Code.UNAVAILABLE, "This is not available right now.", retry_after_s=1) from None
    finally:
        if timer is not None:
            timer.cancel()
