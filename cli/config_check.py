"""`config check`: a config file as all five services read it, and the rules that span their sections.

Each service parses the sections it owns; this only calls them one after the other, with every reference resolved,
and refuses top-level keys that nobody owns, which a service by itself has to ignore.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import msgspec

from chassis.config import ConfigText, read, section
from cli.services import SERVICES

KNOWN_KEYS = frozenset(
    [
        "surfaces",
        "admin",
        "metrics",
        "keys",
        "providers",
        "models",
        "plans",
        "billing",
        "public_url",
        "trusted_proxies",
        "cors",
        "results",
        "tasks",
        "slots",
        "spool",
    ]
)
DEMO_PLAN = "enterprise"
DEFAULT_PREFIX = "/v1"


class ConfigModule(Protocol):
    """The `config.py` of a service."""

    def parse(self, text: ConfigText, environ: Mapping[str, str] | None = None) -> object: ...


class AdminSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`admin`: the only section that the supervisor itself looks at."""

    auth_token: str = ""


class _Admin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    admin: AdminSection = AdminSection()


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid file says that a supervisor must know."""

    hash: str
    providers: int
    models: int
    plans: int
    admin_token: str
    """Empty when the file leaves it to the instance."""
    prefix: str
    """Where the first surface of the public API is mounted."""
    demo_model: str
    """The first chat model, for a first request; empty when there is none."""
    demo_plan: str
    """The plan that the demo customer gets: unlimited where the file has such a plan, else the default one."""


def check(path: Path, *, environ: Mapping[str, str]) -> Findings:
    """Reads the file as every service does. Raises chassis.config.ConfigError naming file, line and key."""
    text = read(path)
    for key in text.data:
        if key not in KNOWN_KEYS:
            raise text.error("is no section of this file", (key,))
    for service in SERVICES:
        parser = cast(ConfigModule, importlib.import_module(f"services.{service}.config"))
        parser.parse(text, environ)
    plans = [plan.get("id") for plan in _rows(text, "plans")]
    return Findings(
        hash=text.hash,
        providers=len(_rows(text, "providers")),
        models=len(_rows(text, "models")),
        plans=len(plans),
        admin_token=section(text, _Admin, environ=environ).admin.auth_token,
        prefix=next((str(row.get("prefix")) for row in _rows(text, "surfaces")), DEFAULT_PREFIX),
        demo_model=next((str(row.get("id")) for row in _rows(text, "models") if _is_chat(row)), ""),
        demo_plan=DEMO_PLAN if DEMO_PLAN in plans else "",
    )


def _is_chat(model: dict[str, object]) -> bool:
    return model.get("category", "chat") == "chat" and not str(model.get("id")).endswith("/*")


def _rows(text: ConfigText, key: str) -> list[dict[str, object]]:
    found = text.data.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
