"""The objects of one auth replica, put together once: what `__main__` serves, and what tests build two of."""

import asyncio

from structlog.typing import FilteringBoundLogger

from chassis import db
from chassis.config import ConfigText, ConfigWatch
from chassis.errors import TollbridgeError
from services.auth import store
from services.auth.api_keys import Peppers
from services.auth.authorize import Authorizer
from services.auth.config import AuthConfig
from services.auth.directory import Directory
from services.auth.kept_keys import Holder, KeptKeys
from services.auth.server import AuthServer, ConfigState
from services.auth.settings import Settings

UPKEEP_S = 60.0


class Parts:
    """One replica's objects; the loops that move them are the lifecycle's."""

    def __init__(self, *, settings: Settings, pool: db.Pool) -> None:
        peppers = Peppers.parse(settings.key_peppers)
        self._pool = pool
        self._config = AuthConfig()
        self._watch: ConfigWatch[AuthConfig] | None = None
        self.is_serving = False
        self.changed = asyncio.Event()
        self.kept = KeptKeys()
        self.authorizer = Authorizer(find=self._find, peppers=peppers, config=self.config, kept=self.kept)
        self.directory = Directory(
            pool=pool,
            peppers=peppers,
            config=self.config,
            default_customer_id=settings.default_customer_id,
            changed=self.changed,
        )
        self.server = AuthServer(
            authorizer=self.authorizer,
            directory=self.directory,
            plan_id=self.plan_id,
            config_state=self.config_state,
        )

    def config(self) -> AuthConfig:
        """The running configuration."""
        return self._config

    def plan_id(self, stored: str) -> str:
        """The plan that holds for a customer with that stored one."""
        return self._config.plan_id(stored)

    async def apply(self, new: AuthConfig, _text: ConfigText) -> None:
        """Makes a configuration the running one: the next answer is made with it."""
        self._config = new

    def follow(self, watch: ConfigWatch[AuthConfig]) -> None:
        """From now on the state of the configuration is what `watch` says."""
        self._watch = watch

    def config_state(self) -> ConfigState:
        """Which configuration is in use."""
        if self._watch is None:
            return ConfigState()
        return ConfigState(hash=self._watch.hash, loaded_at_us=self._watch.loaded_at_us, error=self._watch.error)

    def not_ready(self) -> str | None:
        """Why no calls should come here; None when they may."""
        return None if self.is_serving else "starting or draining"

    async def upkeep(self, log: FilteringBoundLogger) -> None:
        """Wipes what is kept for a while only, each minute until cancelled; every replica may."""
        while True:
            try:
                await self.directory.forget_old()
            except TollbridgeError as error:
                log.warning("upkeep_failed", error=error.message)
            await asyncio.sleep(UPKEEP_S)

    async def close(self) -> None:
        """Ends what is under way."""
        await self.authorizer.close()

    async def _find(self, digests: list[bytes]) -> Holder | None:
        async with db.transaction(self._pool) as conn:
            return await store.holder(conn, digests)
