"""Nobody is deployed with the secret of another: callers are known by hashes, and only to those whom they call."""

import runpy
from pathlib import Path

import pytest
import yaml

from chassis.callers import Callers, parse_tokens
from chassis.errors import TollbridgeError

ROOT = Path(__file__).resolve().parents[3]
OWNERS = {"auth", "router", "billing", "tasks"}


def test_the_secrets_made_for_compose_let_each_caller_in() -> None:
    """Each token opens by its own secret; no hash does, and no secret is in the list of callers."""
    make = runpy.run_path(str(ROOT / "deploy/compose/make_env.py"))
    made = make["made"]({})
    callers = Callers(parse_tokens(made["TOLLBRIDGE_SERVICE_TOKENS"]))
    for name in (*OWNERS, "edge", "cli"):
        token = made[f"TOLLBRIDGE_{name.upper()}_TOKEN"]
        assert callers.name({"authorization": token}, None) == name
        assert token.partition(":")[2] not in made["TOLLBRIDGE_SERVICE_TOKENS"]
        with pytest.raises(TollbridgeError):
            callers.name({"authorization": f"{name}:{token[::-1]}"}, None)


def test_only_those_who_are_called_know_callers() -> None:
    """In compose and in Kubernetes."""
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    told = {name for name, each in composed.items() if "TOLLBRIDGE_SERVICE_TOKENS" in (each.get("environment") or {})}
    assert told == OWNERS
    files = (ROOT / "deploy/k8s/base").glob("*.yaml")
    assert {path.stem for path in files if "TOLLBRIDGE_SERVICE_TOKENS" in path.read_text()} == OWNERS | {"tasks-worker"}
