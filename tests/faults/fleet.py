"""Services of two versions of the code as processes, at addresses that are fixed beforehand, on one database and bus.

As a cluster runs them: nobody supervises, every process is told all addresses, and what doesn't listen yet is found
once it does. The other version comes out of git, with the same installed libraries.
"""

import contextlib
import dataclasses
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from cli.up.data_dir import DataDir, write_private_json
from cli.up.ports import pick_ports
from cli.up.process import SAFE_PATH, spawn, tethered
from tests.integration.running import ROOT, Gateway, wait_until

OWNERS = ("auth", "router", "billing", "tasks")
SERVICES = (*OWNERS, "edge")
CODE = ("chassis", "cli", "gen", "pricing", "services", "upstream")
READY_WITHIN_S = 90.0
ENDED_WITHIN_S = 120.0
MIGRATED_WITHIN_S = 120.0
Told = Callable[[str], Mapping[str, str]]
"""What a service is told in its environment, without the prefix."""


def nothing_else(_service: str) -> Mapping[str, str]:
    """As everybody."""
    return {}


class NoFormerVersion(Exception):
    """The code as it was before can't be had here; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """A folder with the code of one version."""

    name: str
    root: Path

    @property
    def environ(self) -> dict[str, str]:
        """With it `-P` imports from this folder, before anything that is installed."""
        return {**os.environ, "PYTHONPATH": f"{self.root}{os.pathsep}{self.root / 'gen'}", "PYTHONUNBUFFERED": "1"}

    def run(self, *arguments: str, **environ: str) -> str:
        """Runs Python to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *SAFE_PATH, *arguments],
            cwd=self.root,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=MIGRATED_WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {arguments}: {done.stdout}{done.stderr}"
        return done.stdout


NEW = Version(name="new", root=ROOT)


def former_version(directory: Path, revision: str | None) -> Version:
    """The code at `revision`, unpacked; by default as it was before the newest commit that changed it, or, where it is
    changed but not committed, as it was committed. Raises NoFormerVersion."""
    if revision is None:
        revision = "HEAD" if _git("status", "--porcelain", "--", *CODE).strip() else _before_the_newest()
    root = directory / "former"
    root.mkdir()
    packed = directory / "former.tar"
    _git("archive", "--output", str(packed), revision)
    subprocess.run(["tar", "-xf", str(packed), "-C", str(root)], check=True, timeout=60)
    version = Version(name="old", root=root)
    found = version.run(
        "-c", "import chassis, services, cli, tollbridge.auth.v1 as gen; print(*gen.__path__, chassis.__file__)"
    )
    assert all(Path(place).is_relative_to(root) for place in found.split()), found
    return version


def _before_the_newest() -> str:
    newest = _git("log", "--first-parent", "-1", "--format=%H", "--", *CODE).strip()
    try:
        return _git("rev-parse", "--verify", f"{newest}^").strip()
    except NoFormerVersion:
        raise NoFormerVersion(f"git has nothing before {newest[:12]} here, as in a shallow clone") from None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise NoFormerVersion(f"there is no git: {error}") from error
    if done.returncode:
        raise NoFormerVersion(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


@dataclasses.dataclass(kw_only=True)
class Place:
    """Where one process of one version is, while it runs."""

    service: str
    version: Version
    main: str
    metrics: str
    log: Path
    process: subprocess.Popen[bytes] | None = None


class Fleet(Gateway):
    """One instance whose processes the test starts and ends; who audits it finds it as any other."""

    def __init__(
        self,
        *,
        directory: Path,
        config: str,
        versions: Iterable[Version],
        database_url: str,
        nats_url: str,
        told: Told = nothing_else,
    ) -> None:
        """The URLs are the owner's; what `told` says of a service goes before what all are told."""
        self.data_dir = directory / "data"
        self._held = DataDir(self.data_dir)
        self._held.acquire()
        self._config = directory / "tollbridge.yaml"
        self._config.write_text(config)
        self.told = told
        self._urls = {"database_url": database_url, "nats_url": nats_url}
        self._tokens = {name: f"{name}:{secrets.token_hex(24)}" for name in (*SERVICES, "cli")}
        self.admin_token = f"tba_{secrets.token_hex(16)}"
        self._secrets = {name: f"1:{secrets.token_hex(32)}" for name in ("KEY_PEPPERS", "AT_REST_KEYS")}
        self._default_customer_id = str(uuid.uuid4())
        self._kept = contextlib.ExitStack()
        seats = [(service, version) for version in versions for service in SERVICES]
        ports = iter(pick_ports(2 * len(seats), kept=self._kept))
        self.places = {
            (service, version.name): Place(
                service=service,
                version=version,
                main=f"127.0.0.1:{next(ports)}",
                metrics=f"127.0.0.1:{next(ports)}",
                log=directory / f"{service}-{version.name}.log",
            )
            for service, version in seats
        }

    @property
    def ready(self) -> dict[str, Any]:
        """What `ready.json` says, by which commands and the auditor find an instance; without the servers."""
        rows = [
            {
                "name": each.service,
                "replica": 0,
                "pid": each.process.pid,
                "http" if each.service == "edge" else "grpc": each.main,
                "metrics": each.metrics,
            }
            for each in self.places.values()
            if each.process is not None
        ]
        return {"base_url": self.base_url, "admin_token": self.admin_token, **self._urls, "services": rows}

    @property
    def base_url(self) -> str:
        """An edge that runs, if there is one."""
        return next(iter(self.edge_urls), "")

    @property
    def edge_urls(self) -> list[str]:
        """Every edge that runs."""
        return [f"http://{each.main}" for each in self.places.values() if each.service == "edge" and each.process]

    @property
    def all_edge_urls(self) -> list[str]:
        """Where edges run, ran or will run."""
        return [f"http://{each.main}" for each in self.places.values() if each.service == "edge"]

    def migrate(self, version: Version) -> str:
        """`tollbridge migrate` of that version."""
        return version.run("-m", "cli.migrate", TOLLBRIDGE_DATABASE_URL=self._urls["database_url"])

    def start_one(self, service: str, version: Version) -> None:
        """Starts a process and returns at once."""
        place = self.places[service, version.name]
        assert place.process is None, f"{version.name} {service} runs"
        command = [sys.executable, *SAFE_PATH, "-m", f"services.{service}"]
        argv = tethered(command, death_signal=signal.SIGKILL)
        place.process = spawn(argv, log_path=place.log, env=self._environ_of(place))
        self._changed()

    def await_ready(self) -> None:
        """Waits until everything that was started says that it is ready."""
        for place in self.places.values():
            if place.process is not None:
                wait_until(lambda place=place: _is_ready(place), timeout_s=READY_WITHIN_S, what=_tail(place))

    def end_one(self, service: str, version: Version, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends the signal and waits for the end, which must be a good one unless it was killed."""
        place = self.places[service, version.name]
        assert place.process is not None
        place.process.send_signal(number)
        status = place.process.wait(ENDED_WITHIN_S)
        place.process = None
        self._changed()
        assert number is signal.SIGKILL or status == 0, f"status {status}: {_tail(place)}"

    def close(self) -> None:
        """Ends what runs, edges first."""
        try:
            for service in reversed(SERVICES):
                for place in self.places.values():
                    if place.service == service and place.process is not None:
                        _end_hastily(place.process)
        finally:
            self._kept.close()
            self._held.release()

    def hashed_tokens(self, _service: str) -> dict[str, str]:
        """Tells owners of their callers' secrets the hashes alone, which older code does not understand."""
        named = (token.partition(":") for token in self._tokens.values())
        hashes = (f"{name}:sha256:{hashlib.sha256(secret.encode()).hexdigest()}" for name, _, secret in named)
        return {"SERVICE_TOKENS": ",".join(hashes)}

    def running_address(self, service: str) -> str:
        """Where it runs."""
        return next(each.main for each in self.places.values() if each.service == service and each.process)

    def _changed(self) -> None:
        write_private_json(self._held.ready, self.ready)

    def _environ_of(self, place: Place) -> dict[str, str]:
        """What docker-compose.yml tells a container of that service."""
        own = {
            "CONFIG_PATH": str(self._config),
            "DATABASE_URL": self._urls["database_url"],
            "NATS_URL": self._urls["nats_url"],
            "SERVICE_TOKENS": ",".join(self._tokens.values()),
            "SERVICE_TOKEN": self._tokens[place.service],
            "ADMIN_TOKEN": self.admin_token,
            "DEFAULT_CUSTOMER_ID": self._default_customer_id,
            "REPLICA": place.version.name,
            "METRICS_BIND": place.metrics,
            "HTTP_BIND" if place.service == "edge" else "GRPC_BIND": place.main,
            "SPOOL_DIR": str(self.data_dir / "spool"),
            "DRAIN_GRACE_S": "60",
            **self._secrets,
            **{f"{name.upper()}_ADDRESSES": self.addresses(name) for name in OWNERS},
            **self.told(place.service),
        }
        return {**place.version.environ, **{f"TOLLBRIDGE_{name}": value for name, value in own.items()}}

    def addresses(self, service: str) -> str:
        """Where it runs, ran or will run, in each version."""
        return ",".join(each.main for each in self.places.values() if each.service == service)


@contextlib.contextmanager
def fleet(
    directory: Path, config: str, *versions: Version, database_url: str, nats_url: str, told: Told = nothing_else
) -> Iterator[Fleet]:
    """A fleet of which nothing runs yet; at the end nothing runs any more."""
    urls = {"database_url": database_url, "nats_url": nats_url}
    made = Fleet(directory=directory, config=config, versions=versions, told=told, **urls)
    try:
        yield made
    finally:
        made.close()


def _is_ready(place: Place) -> bool:
    assert place.process is not None
    assert place.process.poll() is None, _tail(place)
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://{place.metrics}/readyz", timeout=2).status_code == 200
    return False


def _tail(place: Place) -> str:
    return f"{place.version.name} {place.service}: {place.log.read_text()[-4000:] if place.log.exists() else ''}"


def _end_hastily(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(ENDED_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
