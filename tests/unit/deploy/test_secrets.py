"""Nobody is deployed with the secret of another: callers are known by hashes, and only to those whom they call."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from chassis.callers import Callers, parse_tokens
from chassis.errors import TollbridgeError
from cli.bus_users import ON_THE_BUS, users

ROOT = Path(__file__).resolve().parents[3]
MAKE_ENV = ROOT / "deploy/compose/make_env.py"
OWNERS = {"auth", "router", "billing", "tasks"}


def test_the_secrets_made_for_compose_let_each_caller_in() -> None:
    """Each token opens by its own secret; no hash does, and no secret is in the list of callers."""
    make = runpy.run_path(str(MAKE_ENV))
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
    told = {path.stem for path in files if "TOLLBRIDGE_SERVICE_TOKENS" in path.read_text()}
    assert told >= OWNERS
    assert "edge" not in told


def test_each_service_of_compose_is_its_own_user_at_nats() -> None:
    """The server is given every user's password, each service its own alone, and none begins as a number would."""
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    variables = {user.variable for user in users()}
    assert {name for name in composed["nats"]["environment"] if name.startswith("TOLLBRIDGE_NATS")} == variables
    used = {name: re.findall(r"TOLLBRIDGE_NATS_\w+_PASSWORD", str(each)) for name, each in composed.items()}
    for name in (*ON_THE_BUS, "router", "migrate", "gateway"):
        assert used[name] == [f"TOLLBRIDGE_NATS_{name.upper()}_PASSWORD"] * (name in ON_THE_BUS)
    assert used["ledger-proof"] == ["TOLLBRIDGE_NATS_PROOF_PASSWORD"]
    made = runpy.run_path(str(MAKE_ENV))["made"]({})
    assert all(made[variable][0].isalpha() for variable in variables)
