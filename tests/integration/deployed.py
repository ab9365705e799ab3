"""NATS and PgBouncer as `deploy` has them, for tests: the files that are deployed, on ports and folders of the test."""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cli.bus_users import users
from cli.up.nats import EmbeddedNats
from cli.up.unprivileged import find_disguise, hand_over

ROOT = Path(__file__).resolve().parents[2]
NATS = ROOT / "deploy" / "nats"
PGBOUNCER = ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini"
READY_WITHIN_S = 30.0


class DeployedNats(EmbeddedNats):
    """A server with the files of `deploy/nats` and `more` lines; `passwords` are its users', taken at each start."""

    def __init__(self, *, directory: Path, port: int, more: str = "") -> None:
        super().__init__(directory=directory, port=port)
        self.more = more
        self.passwords = {user.name: f"{user.name}-secret" for user in users()}

    def prepare(self) -> list[str]:
        command = super().prepare()
        (self._directory / "users.conf").write_text((NATS / "users.conf").read_text())
        return ["env", *(f"{user.variable}={self.passwords[user.name]}" for user in users()), *command]

    def url_of(self, user: str, *, scheme: str = "nats") -> str:
        return f"{scheme}://{user}:{self.passwords[user]}@localhost:{self.port}"

    def _config(self) -> str:
        text = (NATS / "nats.conf").read_text().replace("http_port: 8222", "")
        text = text.replace("port: 4222", f"listen: 127.0.0.1:{self.port}")
        return text.replace("/data", f'"{self._directory}/store"') + self.more


def with_certificates(folder: Path) -> str:
    """What docs/identities.md says to write into NATS' file."""
    files = {"cert_file": "tls.crt", "key_file": "tls.key", "ca_file": "ca.crt"}
    named = " ".join(f'{name}: "{folder / file}",' for name, file in files.items())
    return f"tls: {{ {named} verify: true }}\n"


def find_pgbouncer() -> str | None:
    """Debian puts it where only root looks."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class DeployedPgBouncer:
    """The deployed file before the test's server, with few sessions and time to wait for one of them."""

    def __init__(self, *, program: str, owner_url: str, folder: Path, port: int, sessions: int = 4) -> None:
        """Each login has at most so many sessions."""
        self._program, self._folder, self._sessions, self.port = program, folder, sessions, port
        self._owner = conninfo_to_dict(owner_url)
        self._process: subprocess.Popen[bytes] | None = None

    def let_in(self, users: Mapping[str, str]) -> None:
        """Those users with their passwords from now on; starts it if it does not run."""
        folder = self._folder
        (folder / "users.txt").write_text("".join(f'"{user}" "{word}"\n' for user, word in users.items()))
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)
            return
        (folder / "pgbouncer.ini").write_text(self._configured())
        disguise = find_disguise(programs=[Path(self._program)], directory=folder)
        hand_over(folder, owner=disguise.owner)
        command = [*disguise.prefix, self._program, str(folder / "pgbouncer.ini")]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def await_answer(self, url: str) -> None:
        """Waits until a query of that URL, which leads here, comes through."""
        assert self._process is not None
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                with psycopg.connect(url, connect_timeout=5) as connection:
                    connection.execute("SELECT 1")
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def through(self, url: str) -> str:
        """The same login, by way of here."""
        return make_conninfo(url, host="127.0.0.1", port=self.port)

    def stop(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)

    def _configured(self) -> str:
        owner, text = self._owner, PGBOUNCER.read_text()
        for old, new in (
            (
                "host=postgres port=5432 dbname=tollbridge",
                f"host={owner['host']} port={owner['port']} dbname={owner['dbname']}",
            ),
            ("\ntollbridge =", f"\n{owner['dbname']} ="),
            ("listen_addr = 0.0.0.0", "listen_addr = 127.0.0.1"),
            ("listen_port = 6432", f"listen_port = {self.port}"),
            ("auth_file = /etc/pgbouncer/userlist.txt", f"auth_file = {self._folder / 'users.txt'}"),
            ("default_pool_size = 40", f"default_pool_size = {self._sessions}"),
            ("query_wait_timeout = 1", "query_wait_timeout = 20"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text
