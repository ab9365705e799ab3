"""The objects of one tasks process, put together once, and which of its loops run in which role."""

import asyncio
import functools
import uuid
from collections.abc import Sequence
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Bus
from chassis.config import ConfigText, ConfigWatch
from chassis.config_state import ConfigState
from chassis.lifecycle import Lifecycle
from chassis.pipe import PipeClient
from chassis.settings import SettingsError
from chassis.telemetry import Tracer
from chassis.tls import Certificates
from services.tasks import config, events
from services.tasks.acceptance import Acceptance
from services.tasks.config import TasksConfig
from services.tasks.consumer import waker
from services.tasks.ends import Ends
from services.tasks.files.archive import Archive
from services.tasks.files.file_desk import FileDesk
from services.tasks.files.results_store import NatsResults
from services.tasks.files.retention import Retention
from services.tasks.making import kinds
from services.tasks.making.kind import Providers
from services.tasks.metrics import TasksCollector
from services.tasks.news import News, StepTeller
from services.tasks.outbox import OutboxPublisher
from services.tasks.owners import Billing, Router
from services.tasks.publisher import Publisher
from services.tasks.server import TasksServer
from services.tasks.settings import Settings
from services.tasks.webhooks.due_webhooks import DueWebhooks
from services.tasks.webhooks.webhook_secrets import WebhookSecrets
from services.tasks.webhooks.webhooks import Webhooks
from services.tasks.work.backlog import BacklogWatch
from services.tasks.work.forgetter import Forgetter
from services.tasks.work.hold_keeper import HoldKeeper
from services.tasks.work.listening import Listening
from services.tasks.work.shift import Shift
from services.tasks.work.stopper import Stopper
from services.tasks.work.sweeper import Sweeper
from services.tasks.work.worker import Worker
from services.tasks.work.workshop import Workshop
from tollbridge.billing.v1 import billing_pb2
from tollbridge.router.v1 import router_pb2
from upstream.client import UpstreamClient
from upstream.public_address import Network
from upstream.sandbox.provider import Sandbox
from upstream.webhook_deliveries import WebhookDeliveries


class Parts:
    """One process's objects; the lifecycle owns the loops that move them.

    The spender is this process's incarnation: a new one at every start, so that what a former one held is freed.
    """

    def __init__(
        self, *, settings: Settings, pool: db.Pool, bus: Bus, tracer: Tracer, log: FilteringBoundLogger
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._log = log
        self._watch: ConfigWatch[TasksConfig] | None = None
        self._config = TasksConfig()
        secrets = _webhook_secrets(settings.at_rest_keys)
        self._webhooks = WebhookDeliveries(due=DueWebhooks(pool=pool, secrets=secrets, allowed=self._networks), log=log)
        webhooks = Webhooks(pool=pool, secrets=secrets, allowed=self._networks)
        self.is_serving = False
        spender = str(uuid.uuid4())
        self._pipes = _pipes(settings, tracer)
        self._router = Router(pipe=self._pipes[0], spender=spender, log=log)
        billing = Billing(pipe=self._pipes[1], log=log)
        self._client = UpstreamClient()
        self._archive = Archive(bucket=functools.partial(_bucket, settings), log=log)
        self._retention = Retention(pool=pool, results=self._archive, log=log)
        self._forgetter = Forgetter(pool=pool, keep_s=lambda: self._config.keep_tasks_s, log=log)
        publish = Publisher(bus=bus).publish
        self._outbox = OutboxPublisher(pool=pool, publish=publish, committed=billing.committed, log=log)
        wake = self._outbox.wake
        self._ends = ends = Ends(pool=pool, on_outbox=wake, keep_s=lambda: self._archive.rules.keep_s)
        self._holds = HoldKeeper(pool=pool, extend=billing.extend, log=log)
        self._sweeper = Sweeper(pool=pool, ends=ends, listening=Listening(), on_outbox=wake, log=log)
        providers = Providers(client=self._client, sandbox=Sandbox())
        self._workshop = Workshop(router=self._router, providers=providers)
        self._stopper = Stopper(pool=pool, stop=self._workshop.stop, log=log)
        self._news = News(on_end=self._on_end)
        self._worker = Worker(
            pool=pool,
            ends=ends,
            workshop=self._workshop,
            results=self._archive,
            extend_hold=billing.extend,
            tracer=tracer,
            tell=StepTeller(bus=bus).tell,
            log=log,
        )
        self._shifts = _shifts(settings, pool=pool, spender=spender, worker=self._worker, log=log)
        self._backlog = BacklogWatch(pool=pool, kinds=kinds.KINDS, log=log)
        self.server = TasksServer(
            pool=pool,
            acceptance=Acceptance(
                pool=pool,
                models=self._router.models,
                hold=billing.hold,
                keep_hold=self._holds.keep,
                webhooks=webhooks,
                on_outbox=wake,
                rules=lambda: self._archive.rules,
            ),
            ends=ends,
            files=FileDesk(pool=pool, results=self._archive, retention=self._retention),
            news=self._news,
            webhooks=webhooks,
            config_state=self.config_state,
        )

    async def load_config(self, life: Lifecycle) -> None:
        """Loads the config file and follows it; without one the defaults hold. Raises ConfigError."""
        if not self._settings.config_path:
            return
        path = Path(self._settings.config_path)
        self._watch = ConfigWatch(path=path, parse=config.parse, apply=self._apply, log=self._log)
        await self._watch.load_first()
        life.spawn("config", self._watch.run())

    async def start(self, life: Lifecycle) -> None:
        """Connects and starts the loops of this process's role."""
        for pipe in self._pipes:
            await pipe.start()
        await self._bus.ensure_stream(events.TASKS)
        life.spawn("outbox", self._outbox.run_publishing())
        life.spawn("confirm", self._outbox.run_confirming())
        life.spawn("webhooks", self._webhooks.run())
        life.spawn("backlog", self._backlog.run())
        life.spawn("ends", self._bus.listen(events.FINISHED, self._news.hear_end))
        life.spawn("steps", self._bus.listen(events.PROGRESSED, self._news.hear_step))
        if self._settings.is_worker:
            await self._start_worker(life)

    async def _start_worker(self, life: Lifecycle) -> None:
        await self._client.start()
        life.spawn("statement", self._router.run_stating(cut=self._workshop.cut))
        life.spawn("sweeper", self._sweeper.run())
        life.spawn("holds", self._holds.run())
        life.spawn("stopper", self._stopper.run())
        life.spawn("retention", self._retention.run())
        life.spawn("forgetter", self._forgetter.run())
        for kind, shift in self._shifts.items():
            life.spawn(f"orders {kind}", self._bus.consume(events.RUN_CONSUMERS[kind], waker(shift.wake)))
            life.spawn(f"shift {kind}", shift.work())

    async def stop(self) -> None:
        """Gives running jobs back and closes what was opened; the loops must have ended."""
        grace_s = self._settings.drain_grace_s / 2  # calls have had as much before, and stopping has its limit
        await asyncio.gather(*(shift.close(grace_s=grace_s) for shift in self._shifts.values()))
        await self._router.close()
        await self._client.close()
        await self._archive.close()
        for pipe in self._pipes:
            await pipe.close()

    def config_state(self) -> ConfigState:
        """Which configuration is in use."""
        return ConfigState.of(self._watch)

    def collector(self) -> TasksCollector:
        """This process's numbers."""
        return TasksCollector(ends=self._ends, worker=self._worker, shifts=self._shifts, backlog=self._backlog)

    def not_ready(self) -> str | None:
        """Why no calls should come here; None when they may."""
        return None if self.is_serving else "starting or draining"

    def _on_end(self, task_id: str) -> None:
        """A job has ended somewhere: what of it runs here is stopped, here and at its provider."""
        self._worker.stop(task_id)
        self._stopper.wake()

    def _networks(self) -> Sequence[Network]:
        return self._config.tasks.webhooks.networks

    async def _apply(self, new: TasksConfig, _text: ConfigText) -> None:
        self._archive.use(new.results)
        self._config = new


def _webhook_secrets(text: str) -> WebhookSecrets:
    """Raises SettingsError for a key that is none."""
    try:
        return WebhookSecrets.parse(text)
    except ValueError as error:
        raise SettingsError([f"TOLLBRIDGE_AT_REST_KEYS: {error}"]) from None


def _shifts(
    settings: Settings, *, pool: db.Pool, spender: str, worker: Worker, log: FilteringBoundLogger
) -> dict[str, Shift]:
    """One for each kind that this process works for."""
    return {
        kind: Shift(
            kind=kind,
            at_once=settings.jobs_at_once[kind],
            pool=pool,
            spender=spender,
            run=worker.run,
            give_back=worker.give_back,
            is_elsewhere=worker.is_submitted,
            log=log,
        )
        for kind in kinds.KINDS
        if settings.jobs_at_once[kind]
    }


def _bucket(settings: Settings) -> NatsResults:
    tls = Certificates.of(settings)
    return NatsResults(url=settings.nats_url, replicas=settings.stream_replicas, tls=tls)


def _pipes(settings: Settings, tracer: Tracer) -> tuple[PipeClient, PipeClient]:
    """The ways to router and to billing."""
    tls = Certificates.of(settings)
    router = PipeClient(
        descriptor=router_pb2.DESCRIPTOR.services_by_name["RouterService"],
        addresses=settings.router_addresses,
        token=settings.service_token,
        tracer=tracer,
        tls=tls,
    )
    billing = PipeClient(
        descriptor=billing_pb2.DESCRIPTOR.services_by_name["BillingService"],
        addresses=settings.billing_addresses,
        token=settings.service_token,
        tracer=tracer,
        tls=tls,
    )
    return router, billing
