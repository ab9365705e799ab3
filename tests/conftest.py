"""Real servers for tests: a PostgreSQL for the session, a NATS for each test module, embedded or in containers.

And what makes a run the same on every machine: property tests take known examples, and none fails for being slow.
"""

import functools
import gc
import os
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import certifi
import hypothesis
import psycopg
import pytest
from psycopg import sql

from cli.up.nats import EmbeddedNats
from cli.up.ports import pick_ports
from cli.up.postgres import EmbeddedPostgres
from cli.up.process import spawn
from tests import containers
from tests.containers import Contained, ContainedNats, ContainedPostgres

READY_WITHIN_S = 60.0

os.environ.setdefault("TOLLBRIDGE_LOCAL_MODELS_URL", "")
"""Empty: no instance of a test starts local models because they happen to be installed here."""


def pytest_configure() -> None:
    """Before any test is read: its settings are made from these."""
    is_long = "TOLLBRIDGE_TEST_FACTOR" in os.environ  # `make faults` looks for what is not known yet
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("known", deadline=None, derandomize=not is_long, suppress_health_check=slow)
    hypothesis.settings.load_profile("known")
    _load_certificates_once()


def pytest_collection_finish() -> None:
    """What was loaded to collect stays: looking through it for garbage again and again takes seconds."""
    gc.collect()
    gc.freeze()


def _load_certificates_once() -> None:
    """An HTTP client loads all certificates when it is made: 27 ms of a core, and tests make thousands for loopback."""
    load = ssl.create_default_context
    ours = functools.cache(lambda: load(cafile=certifi.where()))

    def shared(*args: object, **options: object) -> ssl.SSLContext:
        return ours() if not args and options == {"cafile": certifi.where()} else load(*args, **options)

    ssl.create_default_context = shared


class RunningServer:
    """An embedded server as a process, which a test may kill and start again on the same port and data."""

    def __init__(self, *, server: EmbeddedPostgres | EmbeddedNats, log_path: Path) -> None:
        self.server = server
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            self._process = spawn(self.server.prepare(), log_path=self._log_path, env=os.environ)
            while self._process.poll() is None and time.monotonic() < deadline:
                if self.server.is_ready():
                    return
                time.sleep(0.01)
            if time.monotonic() > deadline:
                raise AssertionError(f"{self._log_path.name} did not get ready:\n{self._log_path.read_text()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL: as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def lose_disk(self) -> None:
        """What JetStream has stored is gone when it starts again; it was killed before."""
        shutil.rmtree(self.server._directory / "store")

    def stop(self) -> None:
        """Ends it in an orderly way."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(2)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


AnyServer = RunningServer | Contained
"""Either is used the same way."""


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyServer]:
    """The session's PostgreSQL. Who kills it starts it again before the test ends."""
    folder = tmp_path_factory.mktemp("postgres")
    running: AnyServer
    if containers.reason_against():
        server = EmbeddedPostgres(directory=folder, port=pick_ports(1)[0], fsync=False)
        running = RunningServer(server=server, log_path=folder / "log")
    else:
        running = ContainedPostgres()
    yield from _started(running)


@pytest.fixture(scope="module")
def postgres_url(postgres_server: AnyServer) -> Iterator[str]:
    """The URL of a fresh, empty database that belongs to this test module."""
    server = postgres_server.server
    assert isinstance(server, EmbeddedPostgres | ContainedPostgres)
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield server.url(name)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyServer]:
    """A NATS with an empty JetStream that belongs to this test module."""
    folder = tmp_path_factory.mktemp("nats")
    running: AnyServer
    if containers.reason_against():
        running = RunningServer(server=EmbeddedNats(directory=folder, port=pick_ports(1)[0]), log_path=folder / "log")
    else:
        running = ContainedNats()
    yield from _started(running)


@pytest.fixture(scope="module")
def nats_url(nats_server: AnyServer) -> str:
    """The URL of this test module's NATS."""
    assert isinstance(nats_server.server, EmbeddedNats | ContainedNats)
    return nats_server.server.url


def _started(running: AnyServer) -> Iterator[AnyServer]:
    try:
        running.start()
        yield running
    finally:
        running.stop()
