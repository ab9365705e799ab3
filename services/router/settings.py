"""What the environment tells a router process; the only file here that is filled from it."""

from chassis.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Each field is `TOLLBRIDGE_<NAME>` in the environment."""

    service_name: str = "router"
    schema_wait_s: float = 120.0
    """Seconds to wait for the migrations at start."""

    def __post_init__(self) -> None:
        if not self.config_path:
            raise ValueError("TOLLBRIDGE_CONFIG_PATH is not set")
        if not self.database_url:
            raise ValueError("TOLLBRIDGE_DATABASE_URL is not set")
