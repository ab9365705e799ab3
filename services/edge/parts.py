"""The objects of one edge replica, put together once, and the order in which they start and end.

The end goes from outside in: no new connections, running exchanges end, their events reach billing, leases and slots go
back, and only then the connections to everybody else are closed. What does not reach billing in time is in the spool.
"""

import asyncio
import functools
import socket
from pathlib import Path
from uuid import UUID

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from chassis.bucket import Bucket
from chassis.bus import Bus
from chassis.config import ConfigText, ConfigWatch
from chassis.config_state import ConfigCollector, ConfigState
from chassis.lifecycle import Lifecycle
from chassis.telemetry import Tracer
from chassis.tls import Certificates
from services.edge import events
from services.edge.admin.peers import Peers
from services.edge.app import EdgeApp
from services.edge.catalogue import Catalogue
from services.edge.clients import Clients
from services.edge.config import EdgeConfig, parse, without_file
from services.edge.http.hot import hot_routes
from services.edge.idempotency import answers
from services.edge.idempotency.answers import Answers
from services.edge.idempotency.claims import Claims
from services.edge.idempotency.keyed_request import Idempotency
from services.edge.limits.limit_owner import LimitOwner
from services.edge.limits.limits import Limits
from services.edge.metrics import EdgeMetrics, LeaseCollector
from services.edge.owners import AuthOwner, BillingOwner, RouterOwner
from services.edge.paid.admission import Admission
from services.edge.paid.attempts import Attempts
from services.edge.paid.opening import Providers
from services.edge.paid.refusals import RefusalTeller
from services.edge.paid.relay import Relay, Tools
from services.edge.paid.waking import Waking
from services.edge.routes.health import DrainSwitch
from services.edge.settings import Settings
from services.edge.site import describe, own_site, public_site
from services.edge.spending.publisher import Publisher
from services.edge.spending.purse import Purse
from services.edge.spending.replay import Replay, end_spender, free_shares
from services.edge.spending.settlement import Settlement
from services.edge.spool.kernel_sync import KernelSyncer
from services.edge.spool.spool import Spool
from upstream.client import UpstreamClient
from upstream.sandbox.provider import Sandbox

PUBLISH_GRACE_S = 5.0


async def load_config(settings: Settings, log: FilteringBoundLogger) -> "Configuration":
    """The configuration that edge starts with. Raises ConfigError."""
    found = Configuration(settings=settings, log=log)
    await found.load()
    return found


class Configuration:
    """Edge's running configuration; `app` is told when it changes."""

    def __init__(self, *, settings: Settings, log: FilteringBoundLogger) -> None:
        self._settings_token = settings.admin_token
        self.current: EdgeConfig = without_file()
        self.app: EdgeApp | None = None
        self._watch: ConfigWatch[EdgeConfig] | None = None
        if settings.config_path:
            self._watch = ConfigWatch(path=Path(settings.config_path), parse=parse, apply=self._apply, log=log)

    def admin_token(self) -> str:
        """What opens the admin API now: the file's token, else the environment's."""
        return self.current.admin_token or self._settings_token

    def state(self) -> ConfigState:
        """Which file runs."""
        return ConfigState.of(self._watch)

    async def load(self) -> None:
        """Reads the file, if there is one."""
        if self._watch is not None:
            await self._watch.load_first()

    async def follow(self) -> None:
        """Follows the file until cancelled."""
        if self._watch is not None:
            await self._watch.run()

    async def _apply(self, new: EdgeConfig, _text: ConfigText) -> None:
        self.current = new
        if self.app is not None:
            self.app.config = new


class Parts:
    """One replica's objects. `incarnation` names this process start; it is the spender of all its leases."""

    def __init__(
        self,
        *,
        settings: Settings,
        configuration: Configuration,
        incarnation: UUID,
        bus: Bus,
        tracer: Tracer,
        registry: CollectorRegistry,
    ) -> None:
        registry.register(ConfigCollector(configuration.state))
        self._configuration = configuration
        self._incarnation = incarnation
        self._bus = bus
        self._replica = settings.replica
        self._spool_dir = Path(settings.spool_dir)
        self._clients = Clients(settings=settings, tracer=tracer)
        self._spool = self._open_spool(configuration.current)
        self._upstream = UpstreamClient()
        self.drain = DrainSwitch()
        self._peers = Peers(name=f"{socket.gethostname()}/{settings.replica}", own=configuration.state)
        billing = BillingOwner(pipe=self._clients.billing, spender=incarnation)
        router = RouterOwner(pipe=self._clients.router, spender=incarnation)
        self._purse = Purse(billing=billing, spender=incarnation)
        limit_owner = LimitOwner(pipe=self._clients.auth, spender=incarnation)
        self._limits = Limits(keeper=limit_owner)
        self._attempts = Attempts(router=router)
        self._claims = Claims(pipe=self._clients.claims, spender=incarnation)
        self._publisher = Publisher(
            bus=bus,
            billing=billing,
            forget=self._spool.forget,
            confirmed=self._purse.confirmed,
            source=f"edge/{settings.replica}",
        )
        self._replay = Replay(
            directory=self._spool_dir,
            own=incarnation,
            outbox=self._publisher,
            free_shares=functools.partial(free_shares, router=router, limits=limit_owner),
            end_spender=functools.partial(end_spender, billing=billing, claims=self._claims),
        )
        self._settlement = Settlement(spool=self._spool, purse=self._purse, outbox=self._publisher)
        self._admission = Admission(
            auth=AuthOwner(pipe=self._clients.auth),
            purse=self._purse,
            tracer=tracer,
            clamps_short_credit=lambda: configuration.current.on_short_credit == "clamp",
        )
        tools = Tools(
            admission=self._admission,
            limits=self._limits,
            router=router,
            attempts=self._attempts,
            settlement=self._settlement,
            idempotency=self._idempotency(settings),
            providers=Providers(client=self._upstream, sandbox=Sandbox()),
            catalogue=Catalogue(router=self._clients.router),
            metrics=self._metrics(registry),
            tracer=tracer,
        )
        self._relay = Relay(tools=tools, max_requests=settings.max_requests)
        self._waking = Waking(holders=(self._attempts, self._limits), cut=self._relay.cut)
        self._refusals = RefusalTeller(refusals=tools.refusals, auth=self._clients.auth, spender=incarnation)
        self.app = configuration.app = self._site(registry, tracer, has_admin_port=bool(settings.admin_bind))

    def _idempotency(self, settings: Settings) -> Idempotency:
        self._bucket = Bucket(
            url=settings.nats_url,
            name=answers.BUCKET,
            max_age_s=answers.KEPT_S,
            max_bytes=answers.MAX_BUCKET_BYTES,
            replicas=settings.stream_replicas,
            tls=Certificates.of(settings),
            client=f"edge-{settings.replica} answers",
        )
        kept = Answers(store=self._bucket)
        return Idempotency(claims=self._claims, answers=kept, adopter=self._settlement)

    def _open_spool(self, config: EdgeConfig) -> Spool:
        return Spool.open(
            self._spool_dir,
            incarnation=self._incarnation,
            sync=config.spool.sync,
            max_bytes=config.spool.max_mib << 20,
            loop=asyncio.get_running_loop(),
            syncer=KernelSyncer,
        )

    def _metrics(self, registry: CollectorRegistry) -> EdgeMetrics:
        metrics = EdgeMetrics(registry=registry)
        registry.register(LeaseCollector(figures=lambda: self._purse.figures))
        metrics.watch(
            in_flight=lambda: self._relay.in_flight,
            events=lambda: len(self._publisher),
            spool=lambda: self._spool.pending_bytes,
            spool_max_bytes=self._configuration.current.spool.max_mib << 20,
            limited=lambda: len(self._limits),
            waiting=lambda: self._relay.door.waiting,
        )
        return metrics

    def _site(self, registry: CollectorRegistry, tracer: Tracer, *, has_admin_port: bool) -> EdgeApp:
        public = public_site(
            clients=self._clients,
            admission=self._admission,
            claims=self._claims,
            limits=self._limits,
            unsettled=self._settlement.unsettled,
            is_draining=lambda: self.drain.draining,
        )
        own = own_site(
            clients=self._clients,
            admin_token=self._configuration.admin_token,
            name=self._peers.name,
            edges=self._peers.states,
            registry=registry,
            drain=self.drain,
            unready=self.unready,
            forget=self._admission.forget,
        )
        hot = hot_routes(self._relay)
        describe(own, public=public, config=lambda: self._configuration.current)
        return EdgeApp(
            config=self._configuration.current,
            public=public,
            own=own,
            hot=hot,
            tracer=tracer,
            bodies=self._relay.bodies,
            refusals=self._relay.tools.refusals,
            door=self._relay.door,
            has_admin_port=has_admin_port,
        )

    def unready(self) -> str | None:
        """Why this replica must get no new requests; None when it may."""
        if self.drain.draining:
            return "draining"
        return None if self._settlement.has_room else "the spool is full"

    async def start(self, life: Lifecycle) -> None:
        """Connects and starts the loops, which the lifecycle owns."""
        await self._clients.start()
        await self._upstream.start()
        life.spawn("publisher", self._publisher.run())
        life.spawn("lease-statements", self._purse.run())
        life.spawn("attempt-statements", self._attempts.run())
        life.spawn("claim-statements", self._claims.run())
        life.spawn("awake", self._relay.awake.run())
        life.spawn("waking", self._waking.run())
        life.spawn("limits", self._limits.run())
        life.spawn("refusals", self._refusals.run())
        life.spawn("recalls", self._bus.listen(events.CREDITS_RECALLED, self._purse.on_recall))
        life.spawn("key-changes", self._bus.listen(events.KEYS_CHANGED, self._admission.on_keys_changed))
        life.spawn("config", self._configuration.follow())
        life.spawn("peers", self._peers.run(self._bus))
        life.spawn("peers-heard", self._bus.listen(events.EDGE_RUNNING, self._peers.on_message))
        life.spawn("replay", self._replay.run())

    async def end(self, *, grace_s: float) -> None:
        """Ends exchanges, then what they left to do. Called when no new request can come."""
        await self._relay.drain(grace_s=grace_s)
        await self._publisher.drain(grace_s=PUBLISH_GRACE_S)
        await self._attempts.drain()
        await self._limits.drain()
        await self._refusals.tell()
        await self._purse.drain()

    async def close(self) -> None:
        """Closes what everything else stood on; the loops must have been ended before."""
        await self._upstream.close()
        await self._clients.close()
        await self._bus.close()
        await self._bucket.close()
        self._spool.close()
