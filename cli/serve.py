"""`tollbridge serve`: one service, as containers run it. The process becomes the service, so signals reach it."""

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn, Protocol, cast

from chassis.config import ConfigError, read
from chassis.settings import ServiceSettings, SettingsError, load
from cli.config_check import ConfigModule
from cli.services import SERVICES
from cli.up.process import SAFE_PATH

ROLES = ("api", "worker", "both")


class WrongRequest(Exception):
    """The service can't be run so; the message says why."""


class _SettingsModule(Protocol):
    Settings: type[ServiceSettings]


def check_service(service: str) -> str:
    """Validates the service's settings and its sections of the config file; returns a line that says so."""
    _known(service)
    module = cast(_SettingsModule, importlib.import_module(f"services.{service}.settings"))
    try:
        settings = load(module.Settings)
        if settings.config_path:
            parser = cast(ConfigModule, importlib.import_module(f"services.{service}.config"))
            parser.parse(read(Path(settings.config_path)), os.environ)
    except (SettingsError, ConfigError, OSError) as error:
        raise WrongRequest(str(error)) from error
    return f"{service}: settings and config are valid"


def run_service(service: str, *, workers: int, role: str) -> NoReturn:
    """Becomes the service; never returns."""
    _known(service)
    environ = dict(os.environ)
    if role:
        if service != "tasks" or role not in ROLES:
            raise WrongRequest("--role: api, worker or both, for tasks only")
        environ["TOLLBRIDGE_ROLE"] = role
    if workers == 1:
        os.execve(sys.executable, [sys.executable, *SAFE_PATH, "-m", f"services.{service}"], environ)
    if service != "edge":
        raise WrongRequest("--workers: for edge only; the others are scaled by replicas")
    from cli.workers import run_workers

    try:
        sys.exit(run_workers(workers, environ))
    except SettingsError as error:
        raise WrongRequest(str(error)) from error


def _known(service: str) -> None:
    if service not in SERVICES:
        raise WrongRequest(f"{service!r} is none of {', '.join(SERVICES)}")
