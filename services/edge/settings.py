"""What edge reads from its environment."""

from chassis.settings import ServiceSettings
from services.edge.http.door import MOST_INSIDE


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Edge's own settings beside those that every service has."""

    service_name: str = "edge"
    drain_announce_s: float = 3.0
    """A load balancer hears of a drain by asking `/readyz`: this is to be longer than its period."""
    http_bind: str = "127.0.0.1:8080"
    admin_bind: str = ""
    """Where `/admin` and `/metrics` are served, with health beside them; the public port then has neither. Empty: it
    has both."""
    http_reuse_port: bool = False
    """Several edges listen on one port of this machine and the kernel spreads connections: the workers of
    `serve edge --workers`, or an edge and its successor."""
    spool_dir: str = "spool"
    max_requests: int = MOST_INSIDE
    """How many this process serves at once; one more is told to come back."""
    admin_token: str = ""
    default_customer_id: str = ""

    def __post_init__(self) -> None:
        public, admin = (bind.rpartition(":")[2] for bind in (self.http_bind, self.admin_bind))
        if admin == public != "0":  # one address has several ways of writing it, so addresses don't count
            raise ValueError("TOLLBRIDGE_ADMIN_BIND has the public port, TOLLBRIDGE_HTTP_BIND's")
