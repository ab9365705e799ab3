"""The objects of one edge replica, put together once, and the order in which they start and end.

The end goes from outside in: no new connections, running exchanges end, their events reach billing, leases and slots go
back, and only then the connections to everybody else are closed. What does not reach billing in time is in the spool.
"""

import asyncio
from pathlib import Path
from uuid import UUID

from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from chassis.bus import Bus
from chassis.config import ConfigText, ConfigWatch
from chassis.lifecycle import Lifecycle
from chassis.pipe import PipeClient
from chassis.spool import Spool
from chassis.telemetry import Tracer
from services.edge import events
from services.edge.admission import Admission
from services.edge.app import EdgeApp
from services.edge.attempts import Attempts
from services.edge.config import EdgeConfig, parse, without_file
from services.edge.metrics import EdgeMetrics
from services.edge.opening import Providers
from services.edge.owners import AuthOwner, BillingOwner, RouterOwner
from services.edge.publisher import Publisher
from services.edge.purse import Purse
from services.edge.relay import Relay, Tools
from services.edge.replay import replay
from services.edge.routes.chat import ChatRoute
from services.edge.routes.health import DrainSwitch
from services.edge.settings import Settings
from services.edge.settlement import Settlement
from services.edge.site import own_site, public_site
from tollbridge.auth.v1 import auth_pb2
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from tollbridge.tasks.v1 import tasks_pb2
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
        self.current: EdgeConfig = without_file()
        self.app: EdgeApp | None = None
        self._watch: ConfigWatch[EdgeConfig] | None = None
        if settings.config_path:
            self._watch = ConfigWatch(path=Path(settings.config_path), parse=parse, apply=self._apply, log=log)

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
        self._configuration = configuration
        self._incarnation = incarnation
        self._bus = bus
        self._spool_dir = Path(settings.spool_dir)
        self.drain = DrainSwitch()
        config = configuration.current

        def pipe(descriptor: ServiceDescriptor, addresses: str) -> PipeClient:
            return PipeClient(descriptor=descriptor, addresses=addresses, token=settings.service_token, tracer=tracer)

        self._auth = pipe(auth_pb2.DESCRIPTOR.services_by_name["AuthService"], settings.auth_addresses)
        self._router = pipe(router_pb2.DESCRIPTOR.services_by_name["RouterService"], settings.router_addresses)
        self._billing = pipe(billing_pb2.DESCRIPTOR.services_by_name["BillingService"], settings.billing_addresses)
        self._tasks = pipe(tasks_pb2.DESCRIPTOR.services_by_name["TasksService"], settings.tasks_addresses)
        self._spool = Spool.open(
            self._spool_dir,
            incarnation=incarnation,
            sync=config.spool.sync,
            max_bytes=config.spool.max_mib << 20,
            loop=asyncio.get_running_loop(),
        )
        self._client = UpstreamClient()
        billing = BillingOwner(pipe=self._billing, spender=incarnation)
        router = RouterOwner(pipe=self._router, spender=incarnation)
        self._purse = Purse(billing=billing, spender=incarnation)
        self._attempts = Attempts(router=router)
        self._publisher = Publisher(
            bus=bus,
            billing=billing,
            forget=self._spool.forget,
            confirmed=self._purse.confirmed,
            source=f"edge/{settings.replica}",
        )
        self._settlement = Settlement(spool=self._spool, purse=self._purse, outbox=self._publisher)
        self._admission = Admission(
            auth=AuthOwner(pipe=self._auth),
            purse=self._purse,
            tracer=tracer,
            clamps_short_credit=lambda: configuration.current.on_short_credit == "clamp",
        )
        metrics = EdgeMetrics(registry=registry, prefix=config.metrics_prefix)
        self._relay = Relay(
            tools=Tools(
                admission=self._admission,
                router=router,
                attempts=self._attempts,
                settlement=self._settlement,
                providers=Providers(client=self._client, sandbox=Sandbox()),
                metrics=metrics,
                tracer=tracer,
            )
        )
        metrics.watch(
            in_flight=lambda: self._relay.in_flight,
            events=lambda: len(self._publisher),
            spool=lambda: self._spool.pending_bytes,
        )
        self.app = EdgeApp(
            config=config,
            public=public_site(
                auth=self._auth,
                router=self._router,
                billing=self._billing,
                tasks_client=self._tasks,
                admission=self._admission,
            ),
            own=own_site(
                auth=self._auth,
                router=self._router,
                billing=self._billing,
                admin_token=config.admin_token or settings.admin_token,
                registry=registry,
                drain=self.drain,
                unready=self.unready,
            ),
            hot={("POST", "/chat/completions"): ChatRoute(relay=self._relay)},
        )
        configuration.app = self.app

    def unready(self) -> str | None:
        """Why this replica must get no new requests; None when it may."""
        return None if self._settlement.has_room else "the spool is full"

    async def start(self, life: Lifecycle) -> None:
        """Connects and starts the loops, which the lifecycle owns."""
        for pipe in (self._auth, self._router, self._billing, self._tasks):
            await pipe.start()
        await self._client.start()
        await self._bus.ensure_stream(events.USAGE)
        life.spawn("publisher", self._publisher.run())
        life.spawn("lease-statements", self._purse.run())
        life.spawn("attempt-statements", self._attempts.run())
        life.spawn("key-changes", self._bus.listen(events.KEYS_CHANGED, self._admission.on_keys_changed))
        life.spawn("config", self._configuration.follow())
        await replay(self._spool_dir, own=self._incarnation, publisher=self._publisher)

    async def end(self, *, grace_s: float) -> None:
        """Ends exchanges, then what they left to do. Called when no new request can come."""
        await self._relay.drain(grace_s=grace_s)
        await self._publisher.drain(grace_s=PUBLISH_GRACE_S)
        await self._attempts.drain()
        await self._purse.drain()

    async def close(self) -> None:
        """Closes what everything else stood on; the loops must have been ended before."""
        await self._client.close()
        for pipe in (self._auth, self._router, self._billing, self._tasks):
            await pipe.close()
        await self._bus.close()
        self._spool.close()
