"""What `tollbridge up` was asked to do, checked before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli.services import SERVICES
from cli.up.ports import is_free

MAX_REPLICAS = 32
BUILT_IN_CONFIG = Path(__file__).with_name("builtin.yaml")
CUSTOMARY_CONFIG = Path("tollbridge.yaml")


class WrongOption(Exception):
    """An option can't be used; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """The options of `tollbridge up`."""

    config: Path
    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path(".tollbridge")
    replicas: Mapping[str, int] = field(default_factory=dict)
    nats_url: str = ""
    database_url: str = ""

    def replica_count(self, service: str) -> int:
        """How many processes of `service` to run."""
        return self.replicas.get(service, 1)

    @property
    def http_bind(self) -> str:
        """Where edge 0 listens."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def base_url(self) -> str:
        """How a client on this machine reaches edge 0."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
        return f"http://{_bracketed(everywhere.get(self.host, self.host))}:{self.port}"


def choose_config(given: Path | None) -> Path:
    """Returns the config file to use. Raises WrongOption when the given one is not there."""
    if given is None:
        return CUSTOMARY_CONFIG.absolute() if CUSTOMARY_CONFIG.exists() else BUILT_IN_CONFIG
    if not given.is_file():
        raise WrongOption(f"--config: there is no file {given}")
    return given.absolute()


def parse_replicas(text: str) -> dict[str, int]:
    """Reads `edge=2,router=2`. Raises WrongOption."""
    counts: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition("=")
        if name not in SERVICES:
            raise WrongOption(f"--replicas: {name!r} is none of {', '.join(SERVICES)}")
        if not number.isdigit() or not 1 <= int(number) <= MAX_REPLICAS:
            raise WrongOption(f"--replicas: {part!r}: a number from 1 to {MAX_REPLICAS} is wanted")
        counts[name] = int(number)
    return counts


def check_port(options: UpOptions) -> None:
    """Raises WrongOption when edge's port is taken: a port is never changed silently."""
    if not is_free(options.port, host=options.host or "0.0.0.0"):
        raise WrongOption(f"--port: {options.http_bind} is taken or can't be listened on")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
