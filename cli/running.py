"""Finds a running instance: by its data directory, else by the environment."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.settings import SettingsError
from cli.up.data_dir import DataDir, read_json
from cli.up.process import is_alive

DEFAULT_DATA_DIR = Path(".tollbridge")


class NotRunning(Exception):
    """There is no running instance where it was looked for; the message says where that was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningInstance:
    """What `ready.json` of a running instance says."""

    data_dir: DataDir
    content: dict[str, Any]


def find_instance(data_dir: Path | None) -> RunningInstance:
    """Returns the instance that runs on `data_dir` (None: the customary one). Raises NotRunning."""
    found = DataDir(data_dir or DEFAULT_DATA_DIR)
    content = read_json(found.ready)
    if content is None or not found.is_running():
        raise NotRunning(f"no instance runs on {found.root}; start one with `tollbridge up`, or give --data-dir")
    return RunningInstance(data_dir=found, content=content)


def ask_for_restart(instance: RunningInstance) -> int:
    """Asks its supervisor for a rolling restart; returns the pid that was asked. Raises NotRunning."""
    holder = instance.data_dir.holder()
    if holder is None or not is_alive(holder):
        raise NotRunning(f"no instance runs on {instance.data_dir.root} any more")
    os.kill(holder.pid, signal.SIGUSR1)
    return holder.pid


def find_database(data_dir: Path | None) -> str:
    """Returns the database URL: of the instance on `data_dir`, else TOLLBRIDGE_DATABASE_URL.

    Raises NotRunning and SettingsError.
    """
    given = os.environ.get("TOLLBRIDGE_DATABASE_URL", "")
    if data_dir is None and given:
        _check_url(given)
        return given
    return str(find_instance(data_dir).content["database_url"])


def _check_url(given: str) -> None:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(given)
    except psycopg.ProgrammingError:  # its words would quote the URL, password included
        raise SettingsError(["TOLLBRIDGE_DATABASE_URL is no PostgreSQL URL"]) from None


def find_admin(data_dir: Path | None) -> tuple[str, str]:
    """Returns base URL and admin token: of the instance on `data_dir`, else TOLLBRIDGE_URL and _ADMIN_TOKEN."""
    url, token = os.environ.get("TOLLBRIDGE_URL", ""), os.environ.get("TOLLBRIDGE_ADMIN_TOKEN", "")
    if data_dir is None and url and token:
        return url.rstrip("/"), token
    content = find_instance(data_dir).content
    return str(content["base_url"]), str(content["admin_token"])
