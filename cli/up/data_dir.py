"""The data directory of one instance: where all lies, who holds it, how its small files are written.

lock            flock of the running supervisor; its text says who that is: pid and start
secrets.json    tokens, pepper, demo key: made at first start, mode 0600
config.yaml     what is offered when no config file is given, but keys of providers are
checked.yaml    the config file as the services read it: the last one that all of them take; beside it a note
ready.json      there exactly while the instance is ready
processes.json  who was started, so that a next start can end what a killed one left
postgres/ nats/ spool/ logs/
"""

import fcntl
import json
import os
from pathlib import Path

from cli.up.process import ProcessIdentity, identify, is_alive


class DataDirError(Exception):
    """The data directory can't be used; the message says why."""


class DataDir:
    """Paths below one directory, and its lock."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config = self.root / "config.yaml"
        self.checked_config = self.root / "checked.yaml"
        self.ready = self.root / "ready.json"
        self.secrets = self.root / "secrets.json"
        self.processes = self.root / "processes.json"
        self.postgres = self.root / "postgres"
        self.nats = self.root / "nats"
        self._lock_path = self.root / "lock"
        self._lock: int | None = None

    def spool(self, service: str) -> Path:
        """Where this service's incarnations keep their spools; all replicas share it, so each can replay any."""
        return self.root / "spool" / service

    def log(self, label: str) -> Path:
        """Where this process writes its log."""
        return self.root / "logs" / f"{label}.log"

    def acquire(self) -> None:
        """Makes the directory and takes it for this process. Raises DataDirError when another instance has it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataDirError(f"can't use {self.root}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            holder = self.holder()
            raise DataDirError(
                f"{self.root} is in use by another running instance (pid {holder.pid if holder else '?'}); "
                "stop it, or choose another --data-dir"
            ) from error
        own = identify(os.getpid())
        os.ftruncate(lock, 0)
        os.write(lock, f"{own.pid} {own.started}\n".encode() if own else b"")
        self._lock = lock

    def release(self) -> None:
        """Lets the next instance have it."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def is_running(self) -> bool:
        """Tells whether some process holds this directory now. Only looks: trying the lock would keep a start out."""
        holder = self.holder()
        return holder is not None and is_alive(holder)

    def holder(self) -> ProcessIdentity | None:
        """Who has written itself into the lock; it may have ended since."""
        try:
            pid, _, started = self._lock_path.read_text(errors="replace").strip().partition(" ")
        except OSError:
            return None
        return ProcessIdentity(pid=int(pid), started=started) if pid.isdigit() else None


def write_private_json(path: Path, content: object) -> None:
    """Replaces `path` by `content` as `write_private` does."""
    write_private(path, json.dumps(content, indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replaces `path` at once with `text`, readable by its owner only; survives a crash whole, old or new."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_json(path: Path) -> dict[str, object] | None:
    """Returns the object in `path`; None when there is none or it isn't one."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
