"""A whole Tollbridge and a provider as real processes, for tests that drive the system from outside.

Nothing here imports the gateway: it is started by its command, found by its `ready.json` and spoken to over HTTP, as an
operator and a customer would. Only the database that it begins with is made from within (`template.py`).
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from tests.integration.template import begin_with_database

ROOT = Path(__file__).resolve().parents[2]
RUNNING_ALREADY = "TOLLBRIDGE_TEST_RUNNING"
"""The variable that names the data directory of a system which another process of the tests has started."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Any, *, timeout_s: float, what: str) -> Any:
    """Polls until `condition()` is true and returns its value; fails with `what` when time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@dataclasses.dataclass
class Provider:
    """The fake provider as a process; `log` is its own record of what it did."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def provider(directory: Path, *, host: str = "127.0.0.1", synced: bool = True) -> Iterator[Provider]:
    """Runs the fake provider; it listens there. Its log is `synced` for tests that could lose more than processes."""
    directory.mkdir(parents=True, exist_ok=True)
    log, ready = directory / "provider.jsonl", directory / "provider.ready"
    command = [sys.executable, "-m", "tests.fakes.provider", "--host", host, "--log", str(log), "--ready", str(ready)]
    process = subprocess.Popen([*command, *([] if synced else ["--unsynced"])], cwd=ROOT)
    try:
        wait_until(lambda: ready.exists() and ready.read_text().strip(), timeout_s=20, what="the provider is ready")
        port = json.loads(ready.read_text())["port"]
        yield Provider(url=f"http://{host}:{port}", log=log, process=process)
    finally:
        process.terminate()
        process.wait(10)


class Gateway:
    """`tollbridge up` as a process."""

    def __init__(
        self,
        *,
        directory: Path,
        config: str,
        arguments: tuple[str, ...] = (),
        replicas: Mapping[str, int] | None = None,
        **environ: str,
    ) -> None:
        self.data_dir = directory / "data"
        self.log_path = directory / "up.log"
        self._config = directory / "tollbridge.yaml"
        self._config.parent.mkdir(parents=True, exist_ok=True)
        self._config.write_text(config)
        self._arguments = arguments
        if replicas:
            wanted = ",".join(f"{name}={count}" for name, count in replicas.items())
            self._arguments = (*arguments, "--replicas", wanted)
        self._environ = environ
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def running_already(cls, data_dir: Path) -> "Gateway":
        """One that another process has started and will stop, by its data directory."""
        found = cls.__new__(cls)
        found.data_dir = data_dir
        found._port = int(found.ready["base_url"].rpartition(":")[2].strip("/"))
        return found

    def start(self, timeout_s: float = 90) -> None:
        """Starts and waits until `ready.json` is there."""
        command = [sys.executable, "-m", "cli", "up", "--port", str(self._port)]
        command += ["--data-dir", str(self.data_dir), "--config", str(self._config), *self._arguments]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self._environ}
            )
        process, started_ns = self._process, time.time_ns()

        def up() -> bool:
            assert process.poll() is None, self.log_path.read_text()[-4000:]
            # one that a killed run left behind is older
            return self.ready_path.exists() and self.ready_path.stat().st_mtime_ns > started_ns

        wait_until(up, timeout_s=timeout_s, what=f"ready.json; see {self.log_path}")

    @property
    def ready_path(self) -> Path:
        """Where `ready.json` is."""
        return self.data_dir / "ready.json"

    @property
    def ready(self) -> dict[str, Any]:
        """What `ready.json` says now."""
        found: dict[str, Any] = json.loads(self.ready_path.read_text())
        return found

    @property
    def base_url(self) -> str:
        """Where edge listens, without a prefix."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def edge_urls(self) -> list[str]:
        """Where each replica of edge listens, the first one's being `base_url`."""
        return [f"http://{service['http']}" for service in self.ready["services"] if service["name"] == "edge"]

    @contextlib.contextmanager
    def paused(self, name: str, replica: int = 0) -> Iterator[None]:
        """SIGSTOP for that process, SIGCONT at the end: it is there and says nothing."""
        pid = self.pid(name, replica)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop(self, timeout_s: float = 60) -> int:
        """SIGTERM, then waits; returns the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def kill_everything(self) -> None:
        """SIGKILL to the supervisor and to everything it lists, all at once."""
        assert self._process is not None
        pids = [service["pid"] for service in self.ready["services"]]
        self._process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)

    @property
    def pids(self) -> list[int]:
        """Of all services, `nats` and `postgres`, and of what keeps them running."""
        assert self._process is not None
        return [self._process.pid, *(int(service["pid"]) for service in self.ready["services"])]

    def pid(self, name: str, replica: int = 0) -> int:
        """The pid of a service, of `nats` or of `postgres`."""
        for service in self.ready["services"]:
            if service["name"] == name and service.get("replica", 0) == replica:
                return int(service["pid"])
        raise AssertionError(f"{name} is not listed")

    def restart(self, name: str, replica: int = 0, timeout_s: float = 20) -> None:
        """SIGKILL, then waits until its successor is listed; it answers a little later."""
        former = self.pid(name, replica)
        os.kill(former, signal.SIGKILL)
        wait_until(lambda: self.pid(name, replica) != former, timeout_s=timeout_s, what=f"a new {name} is there")

    def admin(self, method: str, path: str, **body: Any) -> Any:
        """A call of the admin API; fails unless it succeeds."""
        headers = {"authorization": f"Bearer {self.ready['admin_token']}"}
        reply = httpx.request(method, self.base_url + path, headers=headers, json=body or None, timeout=10)
        assert reply.is_success, reply.text
        return reply.json()

    def customer(self, *, credit_usd: str) -> "Account":
        """A new customer with a key."""
        made = self.admin("POST", "/admin/customers", name="test", credit_usd=credit_usd)
        key = self.admin("POST", "/admin/keys", customer_id=made["id"], name="test")
        return Account(gateway=self, customer_id=made["id"], key=key["key"], key_id=key["id"])

    def verify(self) -> dict[str, Any]:
        """`ledger verify --json`, which must find the books clean."""
        command = [sys.executable, "-m", "cli", "ledger", "verify", "--json", "--data-dir", str(self.data_dir)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@dataclasses.dataclass
class Account:
    """A customer with a key, and what they may ask."""

    gateway: Gateway
    customer_id: str
    key: str
    key_id: str

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates."""
        return {"authorization": f"Bearer {self.key}"}

    def get(self, path: str) -> Any:
        """A GET below /v1."""
        reply = httpx.get(f"{self.gateway.base_url}/v1{path}", headers=self.headers, timeout=10)
        assert reply.is_success, reply.text
        return reply.json()

    def credits(self) -> dict[str, Decimal]:
        """Balance, held and available, in USD."""
        data = self.get("/credits")["data"]
        return {name: Decimal(data[name]) for name in ("balance", "held", "available", "total_usage")}

    def settled_credits(self, timeout_s: float = 20) -> dict[str, Decimal]:
        """The same, once nothing is held any more; an edge that is being restarted is waited for."""

        def settled() -> dict[str, Decimal] | None:
            with contextlib.suppress(httpx.TransportError):
                found = self.credits()
                return found if found["held"] == 0 else None
            return None

        found: dict[str, Decimal] = wait_until(settled, timeout_s=timeout_s, what="nothing is held")
        return found

    def charged(self, usd: Decimal | int, timeout_s: float = 20) -> None:
        """Waits until exactly so much was charged; a lease may still hold credit for the next requests.

        It goes back after five idle seconds: `settled_credits` waits for that, and `test_shared_leases` proves it.
        """

        def is_so() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self.credits()["total_usage"] == usd
            return False

        wait_until(is_so, timeout_s=timeout_s, what=f"{usd} USD are charged")

    def receipt(self, request_id: str, timeout_s: float = 20) -> dict[str, Any]:
        """A request's receipt, once it is settled; an edge that is being restarted is waited for."""

        def settled() -> dict[str, Any] | None:
            url = f"{self.gateway.base_url}/v1/requests/{request_id}"
            with contextlib.suppress(httpx.TransportError):
                reply = httpx.get(url, headers=self.headers, timeout=10)
                found: dict[str, Any] = reply.json()
                return found if reply.is_success and found["settled"] else None
            return None

        found: dict[str, Any] = wait_until(settled, timeout_s=timeout_s, what=f"{request_id} is settled")
        return found


@contextlib.contextmanager
def gateway(
    directory: Path,
    config: str,
    *arguments: str,
    replicas: Mapping[str, int] | None = None,
    from_nothing: bool = False,
    **environ: str,
) -> Iterator[Gateway]:
    """Runs a Tollbridge, with a database that is there already unless it begins from nothing; stops it at the end."""
    running = Gateway(directory=directory, config=config, arguments=arguments, replicas=replicas, **environ)
    if not from_nothing and "--database-url" not in arguments:
        begin_with_database(running.data_dir, kept_in=directory.parent)
    running.start()
    try:
        yield running
    finally:
        if running._process is not None and running._process.poll() is None:
            running.stop()
