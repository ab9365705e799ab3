"""How a router process is put together: its parts by keyword, so that a test can build two over one database."""

import dataclasses
import random
import time
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from chassis.config import ConfigText, ConfigWatch
from chassis.config_state import ConfigCollector, ConfigState
from chassis.db import Pool
from chassis.rpc import RpcService
from services.router.attempts import AttemptBook
from services.router.breaker import Breaker
from services.router.config import RouterConfig, parse
from services.router.decide import Decider
from services.router.listening import Listening
from services.router.metrics import AccountTurns, Decisions, PoolCollector, SlotWatch
from services.router.server import RouterServer
from services.router.shared_rests import SharedRests
from services.router.store_desk import PostgresDesk


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the composition root runs: `watch`, `slots`, `rests` and `desk.sweep` are tasks of its own."""

    decider: Decider
    desk: PostgresDesk
    watch: ConfigWatch[RouterConfig]
    slots: SlotWatch
    rests: SharedRests
    service: RpcService


def build(*, pool: Pool, config_path: Path, everybody: frozenset[str], metrics: CollectorRegistry) -> Parts:
    """Builds one replica; nothing runs yet, and nothing is decided before `watch.load_first()`."""
    desk, book, breaker = (
        PostgresDesk(pool=pool, listening=Listening()),
        AttemptBook(),
        Breaker(tell=AccountTurns(registry=metrics).tell),
    )
    decider = Decider(desk=desk, shelf=desk, book=book, breaker=breaker, clock=time.monotonic, source=random.Random())

    async def adopt(config: RouterConfig, _: ConfigText) -> None:
        await desk.adopt(config.registry)  # prices are stored before their first use
        decider.use(config)

    watch = ConfigWatch(path=config_path, parse=parse, apply=adopt, log=structlog.get_logger())

    def config_state() -> ConfigState:
        return ConfigState.of(watch)

    slots = SlotWatch(in_use=desk.in_use)
    pool_figures = PoolCollector(
        models=lambda: decider.known,
        breaker=breaker,
        load_of=book.load_of,
        slots=slots,
        waiting=lambda: decider.waiting,
    )
    metrics.register(pool_figures)
    metrics.register(ConfigCollector(config_state))
    server = RouterServer(
        decider=decider,
        desk=desk,
        breaker=breaker,
        load_of=book.load_of,
        config_state=config_state,
        decisions=Decisions(registry=metrics),
    )
    return Parts(
        decider=decider,
        desk=desk,
        watch=watch,
        slots=slots,
        rests=SharedRests(pool=pool, breaker=breaker, registry=lambda: decider.known, clock=time.monotonic),
        service=server.service(everybody=everybody),
    )
