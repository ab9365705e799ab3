"""Billing's objects, built once by keyword and handed to whoever needs them; `__main__` only starts and stops them."""

import dataclasses
from collections.abc import Coroutine, Mapping, Sequence

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Bus
from chassis.config_state import ConfigCollector
from chassis.pipe import PipeClient
from chassis.rpc import RpcService
from chassis.telemetry import Tracer
from chassis.tls import Certificates
from services.billing import events, partitions
from services.billing.accounts import Accounts
from services.billing.alerts.balance_notices import BalanceNotices
from services.billing.backlog import BacklogWatch
from services.billing.claim_server import ClaimServer
from services.billing.confirm import Confirmations
from services.billing.consumer import UsageConsumer
from services.billing.figures import Figures
from services.billing.holding.capped_grants import CappedGrants
from services.billing.holding.grants import Grants
from services.billing.holding.leases import LEASE_LIVES_S, Expiry, Leases
from services.billing.holding.recalls import Recalls
from services.billing.idempotency import Claims
from services.billing.listening import Listening
from services.billing.live_config import LiveConfig
from services.billing.outbox import Outbox
from services.billing.payments.parts import PaymentParts
from services.billing.payments.suspension import Suspend, suspending
from services.billing.prices import AskRouter, PriceBook
from services.billing.proof.proof_watch import ProofWatch
from services.billing.proof.sealer import Sealer
from services.billing.server import BillingServer
from services.billing.settings import Settings
from services.billing.settlement import Settlement
from services.billing.statement_parts import StatementParts
from services.billing.written import Memory
from tollbridge.auth.v1 import auth_pb2
from tollbridge.router.v1 import router_pb2

ROUTER_TIMEOUT_S = 2.0
MESSAGES_AT_ONCE = 20
"""A message has up to 500 events. One that the database refuses is applied event by event, a second or so, and all that
were fetched with it should be done before the bus gives them to somebody else."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """What billing asks of other services."""

    ask_router: AskRouter
    suspend: Suspend


class Parts:
    """Everything that a billing process is made of, but for its ports."""

    def __init__(
        self,
        *,
        settings: Settings,
        pool: db.Pool,
        others: Others,
        tracer: Tracer,
        registry: CollectorRegistry,
        log: FilteringBoundLogger,
    ) -> None:
        self._pool = pool
        self._log = log
        self.is_serving = False
        self.figures = Figures(registry=registry)
        self.config = LiveConfig(path=settings.config_path, figures=self.figures, log=log)
        registry.register(ConfigCollector(self.config.state))
        self.recalls = Recalls(log=log)
        self.grants = Grants(pool=pool, figures=self.figures, lease_lives_s=LEASE_LIVES_S, recall=self.recalls.ask)
        self.capped_grants = CappedGrants(
            pool=pool, figures=self.figures, lease_lives_s=LEASE_LIVES_S, recall=self.recalls.ask
        )
        self._leaving, self._unsealed = Memory(), Memory()
        prices = PriceBook(pool=pool, ask_router=others.ask_router, log=log)
        self.settlement = Settlement(
            pool=pool,
            prices=prices,
            tracer=tracer,
            figures=self.figures,
            log=log,
            kept_days=lambda: self.config.current.usage_kept_days,
            memories=(self._leaving, self._unsealed),
        )
        self.statements = StatementParts(
            pool=pool,
            prices=prices,
            receipt_key=settings.receipt_key,
            at_rest_keys=settings.at_rest_keys,
            config=lambda: self.config.current,
            log=log,
        )
        self.consumer = UsageConsumer(settlement=self.settlement, figures=self.figures, log=log)
        self.server = BillingServer(
            accounts=Accounts(pool=pool),
            grants=self.grants,
            capped_grants=self.capped_grants,
            leases=Leases(pool=pool, figures=self.figures, log=log),
            settlement=self.settlement,
            confirmations=Confirmations(pool=pool),
            receipts=self.statements.receipts,
            config=self.config,
        )
        self._listening = Listening()
        self.claims = Claims(pool=pool, listening=self._listening, log=log)
        self.payments = PaymentParts(
            pool=pool, config=lambda: self.config.current, suspend=others.suspend, figures=self.figures, log=log
        )

    def services(self) -> Sequence[RpcService]:
        """What the RPC server serves."""
        claims = ClaimServer(claims=self.claims)
        return [each.service() for each in (self.server, claims, self.payments.server, self.statements.server)]

    def loops(self, bus: Bus) -> Mapping[str, Coroutine[object, object, None]]:
        """What runs beside the server, by name; the lifecycle owns the tasks."""
        return {
            "config": self.config.run(),
            "partitions": partitions.keep(pool=self._pool, config=lambda: self.config.current, log=self._log),
            "expiry": self.expiry().run(),
            "outbox": self.outbox(bus).run(),
            "claims": self.claims.keep(),
            "recalls": self.recalls.run(bus),
            "seals": Sealer(pool=self._pool, log=self._log, memory=self._unsealed).run(),
            "backlog": BacklogWatch(pool=self._pool, bus=bus, waiting=self.figures.waiting, log=self._log).run(),
            "proofs": ProofWatch(pool=self._pool, figures=self.figures, log=self._log).run(),
            "consumer": bus.consume(events.APPLY_USAGE, self.consumer.handle, batch=MESSAGES_AT_ONCE),
            **self.payments.loops(),
            **self.statements.loops(),
        }

    def expiry(self) -> Expiry:
        """The loop that ends holds; what it hears of the database once a second is what claims are judged by, too."""
        return Expiry(
            pool=self._pool,
            settle_grace_s=lambda: self.config.current.settle_grace_s,
            listening=self._listening,
            figures=self.figures,
            log=self._log,
        )

    def outbox(self, bus: Bus) -> Outbox:
        """The publisher of transfers."""
        notices = BalanceNotices(bus=bus, config=lambda: self.config.current)
        return Outbox(
            pool=self._pool, bus=bus, notices=notices, figures=self.figures, log=self._log, memory=self._leaving
        )

    def not_ready(self) -> str | None:
        """Why calls should go elsewhere; None when they may come."""
        return None if self.is_serving else "starting or stopping"


def clients(settings: Settings, tracer: Tracer) -> tuple[PipeClient, PipeClient]:
    """Billing's pipes to router and to auth."""
    tls = Certificates.of(settings)
    router, auth = (
        PipeClient(descriptor=descriptor, addresses=addresses, token=settings.service_token, tracer=tracer, tls=tls)
        for descriptor, addresses in (
            (router_pb2.DESCRIPTOR.services_by_name["RouterService"], settings.router_addresses),
            (auth_pb2.DESCRIPTOR.services_by_name["AuthService"], settings.auth_addresses),
        )
    )
    return router, auth


def asking(router: PipeClient, auth: PipeClient) -> Others:
    """How a price version is had from router, and a customer suspended by auth."""

    async def ask(version_id: str) -> router_pb2.PriceVersion:
        response = await router.call(
            "GetPriceVersion",
            router_pb2.GetPriceVersionRequest(id=version_id),
            router_pb2.GetPriceVersionResponse,
            timeout_s=ROUTER_TIMEOUT_S,
        )
        return response.price

    return Others(ask_router=ask, suspend=suspending(auth))
