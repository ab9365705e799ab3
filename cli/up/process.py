"""Processes by identity, a pid with its start time: a reused pid is never taken for its former owner.

Every child is started by exec behind `tether.py`, which has the kernel end it when its parent dies (Linux).
Each is the head of its own session, so that Ctrl-C in a terminal reaches the supervisor only, who stops them
in order.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

TETHER = Path(__file__).with_name("tether.py")
POLL_S = 0.02
SAFE_PATH = ("-P",)
"""Keeps the folder that we are started in out of imports: it may well have a `services` of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process: no other one on this machine, since its boot, has both this pid and this start."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """Returns who runs as `pid`, or None when nobody does. A zombie is nobody: it waits only to be reaped."""
    if pid <= 0:
        return None
    started = _started_linux(pid) if sys.platform == "linux" else _started_by_ps(pid)
    return ProcessIdentity(pid=pid, started=started) if started else None


def is_alive(identity: ProcessIdentity) -> bool:
    """Tells whether exactly this process still runs."""
    return identify(identity.pid) == identity


def started_at_s(pid: int) -> float | None:
    """Returns when `pid` started, in Unix seconds; None when it is gone or this system doesn't say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return None
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.time() - uptime_s + ticks / os.sysconf("SC_CLK_TCK")


def command_line(pid: int) -> list[str]:
    """Returns the arguments with which `pid` was started; empty when it is gone or can't be read."""
    if sys.platform != "linux":
        return _ps(pid, "command").split()
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(part) for part in raw.split(b"\0") if part]


def end(identity: ProcessIdentity, *, first: signal.Signals, patience_s: float) -> bool:
    """Sends `first`, and SIGKILL when the process outlives `patience_s`. Returns whether it is gone."""
    for number, wait_s in ((first, patience_s), (signal.SIGKILL, 5.0)):
        if not is_alive(identity):
            return True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(identity.pid, number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not is_alive(identity):
                return True
            time.sleep(POLL_S)
    return not is_alive(identity)


def tethered(
    argv: Sequence[str],
    *,
    death_signal: signal.Signals,
    prefix: Sequence[str] = (),
    parent_pid: int | None = None,
) -> list[str]:
    """Returns the command that runs `argv` so that it gets `death_signal` when its parent dies.

    `prefix` (unshare, setpriv) runs first: a change of identity makes the kernel forget the tie.
    """
    owner = os.getpid() if parent_pid is None else parent_pid
    return [*prefix, sys.executable, "-I", "-S", str(TETHER), str(int(death_signal)), str(owner), *argv]


def spawn(argv: Sequence[str], *, log_path: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts `argv` (see `tethered`) with its output appended to `log_path`. The caller owns the process."""
    with open_log(log_path) as log:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(env),
            start_new_session=True,
        )


def open_log(path: Path) -> FileIO:
    """Opens a log for appending, readable by its owner only. Appending lets it be cut while it is written."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FileIO(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600))


def _started_linux(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    if fields[0] in "ZXx":
        return ""
    return f"{boot}:{fields[19]}"


def _started_by_ps(pid: int) -> str:
    state, _, started = _ps(pid, "stat", "lstart").strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def _ps(pid: int, *columns: str) -> str:
    wanted = [part for column in columns for part in ("-o", f"{column}=")]
    found = subprocess.run(["ps", *wanted, "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10)
    return found.stdout
