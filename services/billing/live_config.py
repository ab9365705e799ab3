"""The config that holds now: the file's when there is one, watched, else the defaults."""

from pathlib import Path

from structlog.typing import FilteringBoundLogger

from chassis.config import ConfigText, ConfigWatch
from chassis.config_state import ConfigState
from services.billing import config
from services.billing.config import BillingConfig
from services.billing.figures import Figures


class LiveConfig:
    """Holds the running config and changes it whole."""

    def __init__(self, *, path: str, figures: Figures, log: FilteringBoundLogger) -> None:
        self.current: BillingConfig = config.defaults()
        self._figures = figures
        self._watch: ConfigWatch[BillingConfig] | None = None
        if path:
            self._watch = ConfigWatch(path=Path(path), parse=config.parse, apply=self._apply, log=log)

    async def load_first(self) -> None:
        """Raises ConfigError when the file is wrong: a process doesn't start with it."""
        if self._watch is not None:
            await self._watch.load_first()

    async def run(self) -> None:
        """Watches the file until cancelled; without one there is nothing to do."""
        if self._watch is not None:
            await self._watch.run()

    def state(self) -> ConfigState:
        """Hash and time of what runs, and why a newer file doesn't."""
        return ConfigState.of(self._watch)

    async def _apply(self, value: BillingConfig, _text: ConfigText) -> None:
        self.current = value
        self._figures.config_loaded.set_to_current_time()
