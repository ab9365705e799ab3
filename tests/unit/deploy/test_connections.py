"""The budget of PostgreSQL's connections: what is deployed never asks for more than there are (docs/postgresql.md)."""

import configparser
import math
import re
from typing import Any

import pytest
import yaml

from chassis.settings import ServiceSettings
from tests.unit.deploy.cluster import ROOT, VARIANTS, manifests, template
from tests.unit.deploy.site import variables

MAX_CONNECTIONS = 200
KEPT_FREE = 20
"""For migrations, the ledger's proof, monitoring and people."""

LOGINS = 4
DATABASE, POOLER, CONNECTIONS = (f"TOLLBRIDGE_DATABASE_{name}" for name in ("URL", "POOLER", "CONNECTIONS"))


def asked_for(environ: dict[str, Any], *, replicas: int) -> int:
    """The most that this many processes with that environment hold at PostgreSQL itself."""
    if DATABASE not in environ or environ.get(POOLER):
        return 0
    return replicas * int(environ.get(CONNECTIONS) or ServiceSettings().database_connections)


def most_replicas(workload: dict[str, Any], built: list[dict[str, Any]]) -> int:
    """While it rolls, and as far as it is scaled by itself."""
    bounds = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"].get("maxReplicas") or each["spec"]["maxReplicaCount"]
        for each in built
        if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    most: int = bounds.get(workload["metadata"]["name"], workload["spec"].get("replicas", 1))
    if workload["kind"] == "StatefulSet":
        return most
    surge = workload["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", "25%")
    return most + (surge if isinstance(surge, int) else math.ceil(most * int(surge.rstrip("%")) / 100))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_replicas_of_the_manifests_fit_postgresql(variant: str) -> None:
    """At their most, and while each Deployment rolls."""
    asked = held(variant)
    assert sum(asked.values()) <= allowed(manifests(variant)) - KEPT_FREE, asked


def held(variant: str) -> dict[str, int]:
    """By each workload of a variant."""
    built = manifests(variant)
    return {
        workload["metadata"]["name"]: asked_for(variables(workload), replicas=most_replicas(workload, built))
        for workload in built
        if workload["kind"] in ("Deployment", "StatefulSet")
    }


def test_the_page_says_what_the_base_may_hold() -> None:
    """By service, workers of tasks with tasks."""
    asked = held("base")
    asked["tasks"] += asked["tasks-worker"]
    (line,) = re.findall(r"^\| `deploy/k8s/base`.*$", (ROOT / "docs" / "postgresql.md").read_text(), re.MULTILINE)
    wanted = [asked[name] for name in ("auth", "router", "billing", "tasks")]
    assert [int(each) for each in re.findall(r"\| (\d+)\b", line)] == [*wanted, sum(wanted)]


def allowed(built: list[dict[str, Any]]) -> int:
    """By the PostgreSQL that is among them, or else by the one that the documents ask for."""
    images = [template(each)["spec"]["containers"][0] for each in built if each["kind"] == "StatefulSet"]
    (own,) = [each["args"] for each in images if "postgres" in each["image"]] or [
        [f"max_connections={MAX_CONNECTIONS}"]
    ]
    return int(own[-1].removeprefix("max_connections="))


def test_the_compose_file_fits_its_postgresql_three_times_over() -> None:
    """`--scale` of each service to three needs no other setting."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["postgres"]["command"][-1] == f"max_connections={MAX_CONNECTIONS}"
    owners = [each["environment"] for name, each in services.items() if name in ("auth", "router", "billing", "tasks")]
    assert sum(asked_for(environ, replicas=3) for environ in owners) <= MAX_CONNECTIONS - KEPT_FREE


def test_one_pgbouncer_fits_postgresql_with_the_logins_of_all_services() -> None:
    """Each login has a pool of its own there."""
    file = configparser.ConfigParser(inline_comment_prefixes=None, comment_prefixes=(";",))
    file.read(ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini")
    assert LOGINS * file.getint("pgbouncer", "default_pool_size") <= MAX_CONNECTIONS - KEPT_FREE
    assert file.get("pgbouncer", "pool_mode") == "transaction"
    assert file.getfloat("pgbouncer", "query_wait_timeout") <= 1  # callers hear 503, they don't hang
