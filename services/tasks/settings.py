"""What the environment tells a tasks process; the only file here that is filled from it."""

from typing import Literal

from chassis.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Each field is `TOLLBRIDGE_<NAME>` in the environment."""

    service_name: str = "tasks"
    role: Literal["api", "worker", "both"] = "both"
    """`api` answers calls, `worker` runs jobs; both publish the outbox."""
    worker_jobs: int = 16
    """Jobs that one worker runs at once."""

    def __post_init__(self) -> None:
        if not 1 <= self.worker_jobs <= 1024:
            raise ValueError("TOLLBRIDGE_WORKER_JOBS is 1 to 1024")

    @property
    def is_api(self) -> bool:
        """Whether this process answers calls."""
        return self.role != "worker"

    @property
    def is_worker(self) -> bool:
        """Whether this process runs jobs."""
        return self.role != "api"
