"""Ends what a killed instance left on its data directory, and only that.

Every started process is written down with its start time. The next instance, which holds the lock and so
knows that no supervisor lives, ends those that still run. PostgreSQL is not among them: its launcher proves
and ends it itself.
"""

import signal
from collections.abc import Iterable

from cli.up.data_dir import DataDir, read_json, write_private_json
from cli.up.process import ProcessIdentity, end, is_alive

PATIENCE_S = 3.0


def record(data_dir: DataDir, identities: Iterable[ProcessIdentity]) -> None:
    """Writes down who runs now."""
    rows = [{"pid": each.pid, "started": each.started} for each in identities]
    write_private_json(data_dir.processes, {"processes": rows})


def end_recorded(data_dir: DataDir) -> list[int]:
    """Ends those of the former instance that still run; returns their pids."""
    rows = (read_json(data_dir.processes) or {}).get("processes")
    ended = []
    for row in rows if isinstance(rows, list) else []:
        former = ProcessIdentity(pid=int(row["pid"]), started=str(row["started"]))
        if is_alive(former):
            end(former, first=signal.SIGTERM, patience_s=PATIENCE_S)
            ended.append(former.pid)
    data_dir.processes.unlink(missing_ok=True)
    return ended
