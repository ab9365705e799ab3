"""PostgreSQL and NATS for tests in containers, where an engine answers: the images that docker-compose.yml runs.

TOLLBRIDGE_TEST_SERVERS says `containers` (nothing else will do), `embedded`, or nothing: then containers it is where an
engine answers and has the images or gets them, and the embedded servers elsewhere. The images are the compose file's,
replaced by the same variables. They listen on a loopback port of this machine, which they keep when they are killed.
"""

import functools
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from cli.up.ports import pick_ports

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

ROOT = Path(__file__).resolve().parents[1]
USER = "tollbridge"
ENGINE_WITHIN_S = 30
READY_WITHIN_S = 120.0


@functools.cache
def reason_against() -> str:
    """Why the embedded servers are taken; empty where containers are."""
    wanted = os.environ.get("TOLLBRIDGE_TEST_SERVERS", "")
    if wanted == "embedded":
        return "TOLLBRIDGE_TEST_SERVERS says so"
    from docker.errors import DockerException
    from urllib3.exceptions import HTTPError

    try:
        _find_images()
    except (DockerException, HTTPError, OSError) as error:  # the second is of a registry that stops within an image
        if wanted == "containers":
            raise
        return f"no container engine with the images answers: {error}"
    return ""


def _find_images() -> None:
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.docker_client import DockerClient

    client = DockerClient(timeout=ENGINE_WITHIN_S).client
    client.ping()
    present = {tag for each in client.images.list() for tag in each.tags}
    sweeper = [] if testcontainers_config.ryuk_disabled else [testcontainers_config.ryuk_image]
    for name in (image("POSTGRES_IMAGE"), image("NATS_IMAGE"), *sweeper):
        if not {name, name.removeprefix("docker.io/").removeprefix("library/")} & present:
            client.images.pull(name)
    client.close()


def image(variable: str) -> str:
    """What docker-compose.yml takes, with the same variable."""
    default = re.search(rf"\$\{{{variable}:-([^}}]+)\}}", (ROOT / "docker-compose.yml").read_text())
    assert default is not None, variable
    return os.environ.get(variable) or default[1]


class Contained:
    """A server in a container; used as tests.conftest.RunningServer is, of which it also is its `server`."""

    def __init__(self, *, image_name: str, inner_port: int, command: list[str], **environment: str) -> None:
        self.port = pick_ports(1)[0]
        self._image_name = image_name
        self._inner_port = inner_port
        self._command = command
        self._environment = environment
        self._container: DockerContainer | None = None

    @property
    def server(self) -> "Contained":
        """What has the URLs."""
        return self

    @property
    def pid(self) -> int:
        """Its process, as the engine's machine numbers it."""
        assert self._container is not None
        self._container.reload()
        return int(self._container.get_wrapped_container().attrs["State"]["Pid"])

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        if self._container is None:
            return False
        self._container.reload()
        return bool(self._container.status == "running")

    def is_ready(self) -> bool:
        """Tells whether it takes connections now."""
        raise NotImplementedError

    def start(self) -> None:
        """Starts it, with what it had when it was killed, and waits until it takes connections."""
        if self._container is None:
            self._container = self._made()
            self._container.start()
        elif not self.runs:
            self._container.get_wrapped_container().start()
        deadline = time.monotonic() + READY_WITHIN_S
        while not self.is_ready():
            if time.monotonic() > deadline or not self.runs:
                said = b"".join(self._container.get_logs()).decode(errors="replace")
                raise AssertionError(f"{self._image_name} did not get ready:\n{said[-4000:]}")
            time.sleep(0.05)

    def _made(self) -> "DockerContainer":
        from testcontainers.core.container import DockerContainer

        made = DockerContainer(self._image_name, command=self._command, env=self._environment)
        made.ports[f"{self._inner_port}/tcp"] = ("127.0.0.1", self.port)
        return made

    def kill(self) -> None:
        """SIGKILL: as a crash would."""
        assert self._container is not None
        self._container.get_wrapped_container().kill()
        self._container.get_wrapped_container().wait(timeout=ENGINE_WITHIN_S)

    def lose_disk(self) -> None:
        """What it had is gone when it starts again; it was killed before."""
        self.stop()

    def stop(self) -> None:
        """Removes it with all that it has."""
        if self._container is not None:
            self._container.stop()
            self._container = None


class ContainedPostgres(Contained):
    """PostgreSQL, without the syncs that keep data over a power cut."""

    def __init__(self) -> None:
        self._password = secrets.token_hex(16)
        super().__init__(
            image_name=image("POSTGRES_IMAGE"),
            inner_port=5432,
            command=["postgres", "-c", "fsync=off", "-c", "max_connections=200"],
            POSTGRES_USER=USER,
            POSTGRES_DB=USER,
            POSTGRES_PASSWORD=self._password,
            POSTGRES_INITDB_ARGS="--encoding=UTF8 --locale=C",
        )

    def url(self, database: str = USER) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def is_ready(self) -> bool:
        """It listens on TCP once its data directory is made."""
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


class ContainedNats(Contained):
    """NATS with JetStream."""

    def __init__(self) -> None:
        password = secrets.token_hex(16)
        command = ["--jetstream", "--store_dir", "/data", "--user", USER, "--pass", password]
        super().__init__(image_name=image("NATS_IMAGE"), inner_port=4222, command=command)
        self.url = f"nats://{USER}:{password}@127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        """It greets once JetStream has recovered; whoever stands before the container takes connections earlier."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                return probe.recv(5).startswith(b"INFO")
        except OSError:
            return False
