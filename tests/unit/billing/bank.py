"""Two banks with one face for the state machines: the pure model, and the service's own objects on PostgreSQL."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Protocol, TypeVar
from uuid import UUID

import msgspec.structs
import psycopg
import structlog
from prometheus_client import CollectorRegistry

from chassis import db
from chassis.errors import TollbridgeError
from chassis.ids import now_floor, uuid7
from chassis.telemetry import Tracer
from pricing.prices import PriceVersion, Rates
from services.billing.accounts import Accounts
from services.billing.books import Books
from services.billing.figures import Figures
from services.billing.holding.capped_grants import CappedGrants
from services.billing.holding.caps import Cap, CapAccount
from services.billing.holding.grants import Grants
from services.billing.holding.hold_store import Ask
from services.billing.holding.holds import Hold, HoldKind
from services.billing.holding.leases import LEASE_LIVES_S, Expiry, Leases, Page, Stated
from services.billing.ledger import Poison, Usage, UsageKind
from services.billing.listening import Listening
from services.billing.prices import PriceBook
from services.billing.settlement import Settlement
from services.billing.written import Memory
from tests.patience import promised
from tollbridge.router.v1 import router_pb2
from tollbridge.usage.v1 import usage_pb2

T = TypeVar("T")
SPENDER = "spender-1"
GRACE_S = 1800
PRICE = PriceVersion(rates=Rates(per_request=1), cost=Rates())
"""One nano-dollar per request: an event of n units.requests costs n."""
PRICES = {it.id: it for it in (PRICE, *(PriceVersion(rates=Rates(per_request=n), cost=Rates()) for n in (2, 3)))}

Seen = tuple[int, int, int, int]
"""credited, used, held, version"""
HoldSeen = tuple[int, int, int, str, bool]
"""amount, captured, freed, state, lapsed"""
CapSeen = tuple[int, int, int, int]
"""cap, spent, held, overrun"""


def leases_of(pool: db.Pool) -> Leases:
    """Statements and returns, as billing takes them."""
    return Leases(pool=pool, figures=Figures(registry=CollectorRegistry()), log=structlog.get_logger())


def price_message(version_id: str = PRICE.id) -> router_pb2.PriceVersion:
    """One of PRICES as router sends it."""
    rates = router_pb2.Rates(per_request=PRICES[version_id].rates.per_request)
    return router_pb2.PriceVersion(id=version_id, rates=rates, markup_ppm=1_000_000)


def event(usage: Usage, **changes: object) -> usage_pb2.UsageRecorded:
    """The usage event that is this Usage, priced by PRICE."""
    is_charge = usage.kind is UsageKind.CHARGE
    fields: dict[str, object] = {
        "event_id": str(uuid7()),
        "request_id": str(usage.request_id),
        "kind": usage_pb2.USAGE_KIND_CHARGE if is_charge else usage_pb2.USAGE_KIND_VOID,
        "customer_id": usage.customer_id,
        "hold_id": str(usage.hold_id) if usage.hold_id else "",
        "closes_hold": usage.closes_hold,
        "spender": SPENDER,
        "price_version": PRICE.id if is_charge else "",
        "units": usage_pb2.Units(requests=usage.charge_nano_usd),
        "charge_nano_usd": usage.charge_nano_usd,
        "provider_reported_cost_nano_usd": -1,
        "model": "m",
    }
    return usage_pb2.UsageRecorded(**{**fields, **changes})  # type: ignore[arg-type]


class Bank(Protocol):
    """What the machines do with a bank. Each answers with the error's code, or '' when it was done."""

    def open(self, customer_id: str, welcome: int) -> str: ...
    def adjust(self, customer_id: str, amount: int, request_id: str) -> str: ...
    def grant(
        self, hold_id: UUID, customer_id: str, amount: int, least: int, request_id: UUID, *, caps: Sequence[Cap] = ()
    ) -> str: ...
    def settle(self, usages: Sequence[Usage]) -> str: ...
    def give_back(self, hold_id: UUID, amount: int, closes: bool) -> str: ...
    def state(self, stated: dict[UUID, int]) -> str: ...
    def expire(self, hold_id: UUID) -> str: ...
    def refund(self, request_id: UUID, amount: int) -> str: ...
    def account(self, customer_id: str) -> Seen: ...
    def hold(self, hold_id: UUID) -> HoldSeen: ...
    def cap(self, cap_id: str) -> CapSeen: ...


class ModelBank:
    """Books that hold everything."""

    def __init__(self) -> None:
        self.books = Books(new_id=uuid7)
        self.dead: list[Usage] = []

    def open(self, customer_id: str, welcome: int) -> str:
        self.books.open(customer_id, welcome_nano_usd=welcome)
        return ""

    def adjust(self, customer_id: str, amount: int, request_id: str) -> str:
        event_id = f"adjustment:{request_id}"
        if any(it.event_id == event_id for it in self.books.transfers):
            return ""
        return _code(lambda: self.books.adjust(customer_id, amount, event_id=event_id, reason=""))

    def grant(
        self, hold_id: UUID, customer_id: str, amount: int, least: int, request_id: UUID, *, caps: Sequence[Cap] = ()
    ) -> str:
        for cap in caps:
            self.books.caps.rows.setdefault(cap.id, CapAccount(id=cap.id, cap_nano_usd=cap.amount_nano_usd))
        hold = Hold(
            id=hold_id,
            customer_id=customer_id,
            kind=HoldKind.LEASE,
            spender=SPENDER,
            amount_nano_usd=amount,
            stated_nano_usd=amount,
            request_id=request_id,
            granted_at_us=0,
            expires_at_us=1,
        )
        return _code(lambda: self.books.grant(hold, least_nano_usd=least, caps=caps))

    def settle(self, usages: Sequence[Usage]) -> str:
        for usage in usages:
            try:
                self.books.settle(usage)
            except Poison:
                self.dead.append(usage)
                hold = self.books.holds.get(usage.hold_id) if usage.hold_id else None
                if hold is not None and hold.customer_id == usage.customer_id:
                    self.books.pin(hold.id, usage.request_id)
        return ""

    def give_back(self, hold_id: UUID, amount: int, closes: bool) -> str:
        if closes:
            self.books.release([hold_id])
        else:
            hold = self.books.holds[hold_id]
            if not hold.lapsed:
                self.books.give_back(hold_id, amount - hold.freed_nano_usd)
        return ""

    def state(self, stated: dict[UUID, int]) -> str:
        for hold_id, unfinished in stated.items():
            hold = self.books.holds[hold_id]
            if hold.is_open and not hold.lapsed:
                self.books.holds[hold_id] = msgspec.structs.replace(hold, stated_nano_usd=unfinished)
        return ""

    def expire(self, hold_id: UUID) -> str:
        if self.books.holds[hold_id].is_open:
            self.books.holds[hold_id] = msgspec.structs.replace(self.books.holds[hold_id], expires_at_us=1)
        self.books.expire(hold_id, now_us=2, settle_grace_s=GRACE_S)
        return ""

    def refund(self, request_id: UUID, amount: int) -> str:
        charge = next(
            (it for it in self.books.transfers if it.event_id == f"charge:{request_id}" and it.leg == 0), None
        )
        if charge is None:
            return "invalid_request"
        return _code(lambda: self.books.refund(charge, request_id=request_id, amount_nano_usd=amount, reason=""))

    def account(self, customer_id: str) -> Seen:
        account = self.books.accounts[customer_id]
        return account.credited_nano_usd, account.used_nano_usd, account.held_nano_usd, account.version

    def hold(self, hold_id: UUID) -> HoldSeen:
        hold = self.books.holds[hold_id]
        return hold.amount_nano_usd, hold.captured_nano_usd, hold.freed_nano_usd, str(hold.state), hold.lapsed

    def cap(self, cap_id: str) -> CapSeen:
        row = self.books.caps.rows[cap_id]
        return row.cap_nano_usd, row.spent_nano_usd, row.held_nano_usd, row.overrun_nano_usd


class PostgresBank:
    """The service's objects on a migrated database, driven from one thread by a loop of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._runner = asyncio.Runner()
        self.run(self._build())
        self.admin = psycopg.connect(url, autocommit=True)

    async def _build(self) -> None:
        log = structlog.get_logger()
        figures = Figures(registry=CollectorRegistry())
        self.pool = await db.open_pool(self.url, role="billing", max_size=2)
        self.pool.timeout = promised(self.pool.timeout)

        async def ask_router(version_id: str) -> router_pb2.PriceVersion:
            return price_message(version_id)

        self.accounts = Accounts(pool=self.pool)
        self.grants = Grants(pool=self.pool, figures=figures, lease_lives_s=LEASE_LIVES_S)
        self.capped_grants = CappedGrants(pool=self.pool, figures=figures, lease_lives_s=LEASE_LIVES_S)
        self.leases = leases_of(self.pool)
        self.expiry = Expiry(
            pool=self.pool, settle_grace_s=lambda: GRACE_S, listening=Listening(), figures=figures, log=log, quiet_s=0.0
        )
        self.leaving, self.unsealed = Memory(), Memory()
        self.settlement = Settlement(
            pool=self.pool,
            prices=PriceBook(pool=self.pool, ask_router=ask_router, log=log),
            tracer=Tracer(service="billing", replica="0", otlp_endpoint=""),
            figures=figures,
            log=log,
            kept_days=lambda: 400,
            memories=(self.leaving, self.unsealed),
        )

    def close(self) -> None:
        self.run(self.grants.close())
        self.run(self.capped_grants.close())
        self.run(self.pool.close())
        self.admin.close()
        self._runner.close()

    def open(self, customer_id: str, welcome: int) -> str:
        return self._coded(self.accounts.open(customer_id, welcome_nano_usd=welcome))

    def adjust(self, customer_id: str, amount: int, request_id: str) -> str:
        return self._coded(self.accounts.adjust(customer_id, amount, request_id=request_id, reason=""))

    def grant(
        self, hold_id: UUID, customer_id: str, amount: int, least: int, request_id: UUID, *, caps: Sequence[Cap] = ()
    ) -> str:
        ask = Ask(
            hold_id=hold_id,
            customer_id=customer_id,
            kind=HoldKind.LEASE,
            spender=SPENDER,
            amount_nano_usd=amount,
            request_id=request_id,
        )
        answer = self._coded(
            self.capped_grants.grant(ask, caps=caps, least_nano_usd=least, wait_s=0)
            if caps
            else self.grants.grant(ask, least_nano_usd=least, wait_s=0)
        )
        # Here no spender answers in no time; the model has none that could.
        return "insufficient_credits" if answer == "balance_reserved" else answer

    def settle(self, usages: Sequence[Usage]) -> str:
        return self._coded(self.settlement.apply([event(usage) for usage in usages]))

    def give_back(self, hold_id: UUID, amount: int, closes: bool) -> str:
        if closes:
            return self._coded(self.leases.give_back(hold_id=hold_id, spender=SPENDER))
        row = self.admin.execute("SELECT stated FROM billing.holds WHERE id = %s", (hold_id,)).fetchone()
        lease = Stated(hold_id=hold_id, open_nano_usd=row[0] if row else 0, spent_nano_usd=0, returned_nano_usd=amount)
        now = now_floor()
        page = Page(spender=SPENDER, as_of=now, from_id=now, until_id=now, leases=[lease])
        return self._coded(self.leases.state(page))

    def state(self, stated: dict[UUID, int]) -> str:
        for hold_id, unfinished in stated.items():
            self.admin.execute(
                "UPDATE billing.holds SET stated = %s WHERE id = %s AND state = 'open' AND NOT lapsed",
                (unfinished, hold_id),
            )
        return ""

    def expire(self, hold_id: UUID) -> str:
        self.admin.execute(
            "UPDATE billing.holds SET expires_at = now() - interval '1 second' WHERE id = %s", (hold_id,)
        )
        return self._coded(self.expiry.look())

    def refund(self, request_id: UUID, amount: int) -> str:
        return self._coded(self.accounts.refund(request_id, amount_nano_usd=amount, reason=""))

    def account(self, customer_id: str) -> Seen:
        row = self.admin.execute(
            "SELECT credited, used, held, version FROM billing.ledger_accounts WHERE customer_id = %s", (customer_id,)
        ).fetchone()
        assert row is not None
        return row[0], row[1], row[2], row[3]

    def hold(self, hold_id: UUID) -> HoldSeen:
        row = self.admin.execute(
            "SELECT amount, captured, freed, state, lapsed FROM billing.holds WHERE id = %s", (hold_id,)
        ).fetchone()
        assert row is not None
        return row[0], row[1], row[2], row[3], row[4]

    def cap(self, cap_id: str) -> CapSeen:
        row = self.admin.execute(
            "SELECT cap, spent, held, overrun FROM billing.cap_accounts WHERE id = %s", (cap_id,)
        ).fetchone()
        assert row is not None
        return row[0], row[1], row[2], row[3]

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        return self._runner.run(coroutine)

    def _coded(self, coroutine: Coroutine[object, object, object]) -> str:
        return _code(lambda: self.run(coroutine))


def _code(call: object) -> str:
    try:
        call()  # type: ignore[operator]
    except TollbridgeError as error:
        return str(error.code)
    return ""
