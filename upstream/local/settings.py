"""What the process of local models is told."""

from chassis.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """TOLLBRIDGE_LOCAL_THREADS 0 leaves a core to all else."""

    service_name: str = "local-models"
    http_bind: str = "127.0.0.1:0"
    local_threads: int = 0
