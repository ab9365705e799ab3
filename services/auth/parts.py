"""The objects of one auth replica, put together once: what `__main__` serves, and what tests build two of."""

import asyncio
import functools
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.bus import Bus
from chassis.config import ConfigText, ConfigWatch
from chassis.config_state import ConfigState
from chassis.errors import TollbridgeError
from chassis.lifecycle import Lifecycle
from services.auth import config, events, store
from services.auth.api_keys import Peppers
from services.auth.audit import AuditLog
from services.auth.authorize import Authorizer
from services.auth.changes import ChangeOutbox, ChangePoll, on_message
from services.auth.config import AuthConfig
from services.auth.directory import Directory
from services.auth.kept_keys import Holder, KeptKeys
from services.auth.limit_desk import LimitDesk
from services.auth.metrics import AuthCollector
from services.auth.refusals import Refusals
from services.auth.server import AuthServer
from services.auth.settings import Settings
from services.auth.wrong_keys import WrongKeys

UPKEEP_S = 60.0


class Parts:
    """One replica's objects; the lifecycle owns the loops that move them."""

    def __init__(self, *, settings: Settings, pool: db.Pool, log: FilteringBoundLogger) -> None:
        peppers = Peppers.parse(settings.key_peppers)
        self._pool = pool
        self._log = log
        self._config_path = settings.config_path
        self._config = AuthConfig()
        self._watch: ConfigWatch[AuthConfig] | None = None
        self.is_serving = False
        self.changed = asyncio.Event()
        self.kept = KeptKeys()
        self.wrong = WrongKeys()
        self.authorizer = Authorizer(
            find=self._find, peppers=peppers, config=self.running_config, kept=self.kept, wrong=self.wrong
        )
        self.directory = Directory(
            pool=pool,
            peppers=peppers,
            config=self.running_config,
            default_customer_id=settings.default_customer_id,
            kept=self.kept,
            changed=self.changed,
        )
        self.refusals = Refusals(pool=pool)
        self.limit_desk = LimitDesk(pool=pool, log=log)
        self.server = AuthServer(
            authorizer=self.authorizer,
            directory=self.directory,
            limit_desk=self.limit_desk,
            audit=AuditLog(pool=pool),
            refusals=self.refusals,
            plan_id=self.plan_id,
            config_state=self.config_state,
        )

    def collector(self) -> AuthCollector:
        """This replica's numbers."""
        return AuthCollector(
            authorizer=self.authorizer, kept=self.kept, wrong=self.wrong, limits=self.limit_desk.figures
        )

    def running_config(self) -> AuthConfig:
        """The running configuration."""
        return self._config

    def plan_id(self, stored: str) -> str:
        """The plan that holds for a customer with that stored one."""
        return self._config.plan_id(stored)

    async def apply(self, new: AuthConfig, _text: ConfigText) -> None:
        """Makes a configuration the running one: the next answer is made with it."""
        self._config = new

    async def load_config(self, life: Lifecycle) -> None:
        """Loads the config file and follows it; without one the defaults hold. Raises ConfigError."""
        if not self._config_path:
            return
        self._watch = ConfigWatch(path=Path(self._config_path), parse=config.parse, apply=self.apply, log=self._log)
        await self._watch.load_first()
        life.spawn("config", self._watch.run())

    def start(self, life: Lifecycle, bus: Bus) -> None:
        """Starts the loops."""
        announce = functools.partial(bus.announce, events.KEYS_CHANGED)
        outbox = ChangeOutbox(pool=self._pool, kept=self.kept, announce=announce, changed=self.changed, log=self._log)
        life.spawn("poll", ChangePoll(pool=self._pool, kept=self.kept, log=self._log).run())
        life.spawn("outbox", outbox.run())
        life.spawn("listen", bus.listen(events.KEYS_CHANGED, on_message(self.kept, self._log)))
        life.spawn("limits", self.limit_desk.run())
        life.spawn("upkeep", self.upkeep())

    def config_state(self) -> ConfigState:
        """Which configuration is in use."""
        return ConfigState.of(self._watch)

    def not_ready(self) -> str | None:
        """Why no calls should come here; None when they may."""
        return None if self.is_serving else "starting or draining"

    async def upkeep(self) -> None:
        """Wipes what is kept for a while only, each minute until cancelled; every replica may."""
        while True:
            try:
                await self.directory.forget_old()
                await self.limit_desk.forget_old()
                await self.refusals.forget_old()
            except TollbridgeError as error:
                self._log.warning("upkeep_failed", error=error.message)
            await asyncio.sleep(UPKEEP_S)

    async def _find(self, digests: list[bytes]) -> Holder | None:
        async with db.transaction(self._pool) as conn:
            return await store.holder(conn, digests)
