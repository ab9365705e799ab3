"""What the environment tells a tasks process; the only file here that is filled from it."""

from collections.abc import Mapping
from typing import Literal

from chassis.settings import ServiceSettings

MAX_AT_ONCE = 1024


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Each field is `TOLLBRIDGE_<NAME>` in the environment."""

    service_name: str = "tasks"
    role: Literal["api", "worker", "both"] = "both"
    """`api` answers calls, `worker` runs jobs; both publish the outbox."""
    at_rest_keys: str = ""
    """`1:<hex>,2:<hex>`, 64 digits each, the newest last: webhook secrets follow from them. Empty: no webhooks."""
    worker_image_jobs: int = 16
    """Jobs of the kind that one worker runs at once, each with up to 64 MiB of results. 0: it leaves them to others."""
    worker_speech_jobs: int = 16
    worker_video_jobs: int = 16

    def __post_init__(self) -> None:
        for kind, at_once in self.jobs_at_once.items():
            if not 0 <= at_once <= MAX_AT_ONCE:
                raise ValueError(f"TOLLBRIDGE_WORKER_{kind.upper()}_JOBS is 0 to {MAX_AT_ONCE}")

    @property
    def jobs_at_once(self) -> Mapping[str, int]:
        """By kind of job."""
        return {
            "image": self.worker_image_jobs,
            "speech": self.worker_speech_jobs,
            "video": self.worker_video_jobs,
        }

    @property
    def is_api(self) -> bool:
        """Whether this process answers calls."""
        return self.role != "worker"

    @property
    def is_worker(self) -> bool:
        """Whether this process runs jobs."""
        return self.role != "api"
