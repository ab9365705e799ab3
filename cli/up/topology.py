"""Which processes an instance has, at which addresses, and what each is told in its environment.

Ports are chosen once per run and kept over a process's restarts, so that everybody finds it again.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cli.services import SERVICES
from cli.up.data_dir import DataDir
from cli.up.instance_secrets import InstanceSecrets
from cli.up.options import UpOptions
from cli.up.ports import pick_ports
from cli.up.probe import http_is_ready
from cli.up.process import SAFE_PATH, tethered
from cli.up.supervised import Program

OWNERS = ("auth", "router", "billing", "tasks")
"""The services that answer gRPC; edge only asks."""

CONFIG_GATE = "config"
"""Follows the config file for all of them (`cli.up.config_gate`)."""

GRACE = "TOLLBRIDGE_DRAIN_GRACE_S"
EDGE_GRACE_S = 600.0
"""As long as a stream may take, unless the config says otherwise: a rolling restart cuts none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One replica's place: its addresses."""

    service: str
    replica: int
    main: str
    """edge: http; the others: grpc. A process and its successor share it for a while."""
    metrics: str
    spare: str
    """For the metrics of a successor, while its predecessor is still there."""

    @property
    def is_http(self) -> bool:
        """Whether the main address speaks HTTP."""
        return self.service == "edge"

    def next(self) -> "Seat":
        """The same place for a successor."""
        return replace(self, metrics=self.spare, spare=self.metrics)


def seats(options: UpOptions, *, kept: contextlib.ExitStack | None = None) -> list[Seat]:
    """Gives every replica its addresses; their ports are kept from other instances until `kept` is closed."""
    wanted = [(name, number) for name in SERVICES for number in range(options.replica_count(name))]
    ports = iter(pick_ports(3 * len(wanted), kept=kept))
    found = []
    for name, number in wanted:
        main = f"127.0.0.1:{next(ports)}"
        if name == "edge":
            host = options.http_bind.rpartition(":")[0]
            main = options.http_bind if number == 0 else f"{host}:{main.rpartition(':')[2]}"
        metrics, spare = (f"127.0.0.1:{next(ports)}" for _ in range(2))
        found.append(Seat(service=name, replica=number, main=main, metrics=metrics, spare=spare))
    return found


def grpc_addresses(placed: list[Seat], service: str) -> str:
    """Where the replicas of `service` are, as clients read it."""
    return ",".join(seat.main for seat in placed if seat.service == service)


def shared_environ(
    *,
    config: Path,
    secrets: InstanceSecrets,
    placed: list[Seat],
    nats_url: str,
    database_url: str,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """What every process of this instance is told. The caller's own variables pass, since configs refer to them."""
    return {
        **environ,
        "TOLLBRIDGE_CONFIG_PATH": str(config),
        "TOLLBRIDGE_DATABASE_URL": database_url,
        "TOLLBRIDGE_NATS_URL": nats_url,
        "TOLLBRIDGE_DEFAULT_CUSTOMER_ID": secrets.default_customer_id,
        "PYTHONUNBUFFERED": "1",
        **{f"TOLLBRIDGE_{name.upper()}_ADDRESSES": grpc_addresses(placed, name) for name in OWNERS},
    }


def service_program(seat: Seat, *, shared: Mapping[str, str], secrets: InstanceSecrets, data_dir: DataDir) -> Program:
    """Describes one replica's process."""
    own = {
        "TOLLBRIDGE_REPLICA": str(seat.replica),
        "TOLLBRIDGE_SERVICE_TOKEN": secrets.own_token(seat.service),
        "TOLLBRIDGE_METRICS_BIND": seat.metrics,
        ("TOLLBRIDGE_HTTP_BIND" if seat.is_http else "TOLLBRIDGE_GRPC_BIND"): seat.main,
        ("TOLLBRIDGE_HTTP_REUSE_PORT" if seat.is_http else "TOLLBRIDGE_GRPC_REUSE_PORT"): "true",
    }
    if seat.is_http and GRACE not in shared:
        own[GRACE] = f"{EDGE_GRACE_S:g}"
    if seat.service in OWNERS:
        own["TOLLBRIDGE_SERVICE_TOKENS"] = secrets.accepted_tokens()
    if seat.service == "edge":
        own["TOLLBRIDGE_ADMIN_TOKEN"] = secrets.admin_token
    if seat.service == "auth":
        own["TOLLBRIDGE_KEY_PEPPERS"] = secrets.key_peppers
    if seat.service == "billing":
        own["TOLLBRIDGE_RECEIPT_KEY"] = secrets.receipt_key
    if seat.service in ("billing", "tasks"):
        own["TOLLBRIDGE_AT_REST_KEYS"] = secrets.at_rest_keys
    if seat.service in ("edge", "tasks"):
        own["TOLLBRIDGE_SPOOL_DIR"] = str(data_dir.spool(seat.service))

    def prepare() -> list[str]:
        # SIGKILL when the supervisor dies: a successor must find spools and ports free, and nothing needs a farewell
        command = [sys.executable, *SAFE_PATH, "-m", f"services.{seat.service}"]
        return tethered(command, death_signal=signal.SIGKILL)

    return Program(
        name=seat.service,
        replica=seat.replica,
        prepare=prepare,
        environ={**shared, **own},
        log_path=data_dir.log(f"{seat.service}-{seat.replica}"),
        is_ready=_readiness(seat),
        stop_signal=signal.SIGINT,  # everything ends then, and somebody waits; one among others is ended by SIGTERM
        addresses={"http" if seat.is_http else "grpc": seat.main, "metrics": seat.metrics},
    )


def config_program(options: UpOptions, *, environ: Mapping[str, str], data_dir: DataDir) -> Program:
    """Describes the process of the gate between the config file and the services. Nobody waits for it."""

    def prepare() -> list[str]:
        command = [sys.executable, *SAFE_PATH, "-m", "cli.up.config_gate"]
        files = [str(options.config), str(data_dir.checked_config)]
        return tethered([*command, *files], death_signal=signal.SIGKILL)

    async def is_ready() -> bool:
        return True

    return Program(
        name=CONFIG_GATE,
        replica=None,
        prepare=prepare,
        environ=environ,
        log_path=data_dir.log(CONFIG_GATE),
        is_ready=is_ready,
    )


def cli_environ(shared: Mapping[str, str], secrets: InstanceSecrets) -> dict[str, str]:
    """What our own short-lived helpers (migrations, the demo customer) are told."""
    return {**shared, "TOLLBRIDGE_SERVICE_TOKEN": secrets.own_token("cli")}


def _readiness(seat: Seat) -> Callable[[], Awaitable[bool]]:
    async def is_ready() -> bool:
        return await http_is_ready(seat.metrics)  # at its main address another one may answer

    return is_ready


def base_environ() -> dict[str, str]:
    """This process's own environment."""
    return dict(os.environ)
