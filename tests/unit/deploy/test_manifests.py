"""The deployment files are valid and name what the services really read."""

from typing import Any

import pytest
import yaml

from tests.unit.deploy.cluster import ROOT, manifests

SERVICES = ("edge", "auth", "router", "billing", "tasks")
WORKLOADS = (*SERVICES, "tasks-worker")


@pytest.fixture(scope="module")
def built() -> list[dict[str, Any]]:
    """The manifests as kustomize makes them."""
    return manifests("base")


def workload(built: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The Deployment or StatefulSet of that name."""
    return next(
        each for each in built if each["metadata"]["name"] == name and each["kind"] in ("Deployment", "StatefulSet")
    )


def test_services_select_their_pods_and_ports(built: list[dict[str, Any]]) -> None:
    """Each Service finds exactly one workload, and each of its target ports is a port of that workload."""
    workloads = [each for each in built if each["kind"] in ("Deployment", "StatefulSet")]
    for service in (each for each in built if each["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        found = [each for each in workloads if wanted <= each["spec"]["template"]["metadata"]["labels"].items()]
        assert len(found) == 1, service["metadata"]["name"]
        container = found[0]["spec"]["template"]["spec"]["containers"][0]
        names = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


@pytest.mark.parametrize("service", WORKLOADS)
def test_every_variable_is_a_setting(built: list[dict[str, Any]], service: str) -> None:
    """A TOLLBRIDGE_ variable of a manifest is a field of that service's settings."""
    import importlib

    import msgspec

    settings = importlib.import_module(f"services.{service.removesuffix('-worker')}.settings").Settings
    fields = {"TOLLBRIDGE_" + field.name.upper() for field in msgspec.structs.fields(settings)}
    given = {each["name"] for each in workload(built, service)["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert given - fields == set()


@pytest.mark.parametrize("service", WORKLOADS)
def test_a_pod_has_time_for_its_whole_drain(built: list[dict[str, Any]], service: str) -> None:
    """It is killed only when the process would have ended its drain by itself."""
    from chassis.lifecycle import DRAIN_LIMIT_S, DRAIN_MARGIN_S
    from chassis.settings import load
    from services.edge.settings import Settings

    pod = workload(built, service)["spec"]["template"]["spec"]
    takes_s = DRAIN_LIMIT_S
    if service == "edge":
        own = load(Settings, {each["name"]: each.get("value", "") for each in pod["containers"][0]["env"]})
        takes_s = own.drain_announce_s + own.drain_grace_s + DRAIN_MARGIN_S
    assert pod["terminationGracePeriodSeconds"] >= takes_s


def test_an_edge_announces_its_end_until_balancers_have_heard_and_cuts_no_stream(built: list[dict[str, Any]]) -> None:
    """Three probes fail within the announcement, and the grace is as long as the config lets a stream be by itself."""
    from services.router.config_sections import TimeoutsSection

    container = workload(built, "edge")["spec"]["template"]["spec"]["containers"][0]
    given = {each["name"]: each.get("value") for each in container["env"]}
    probe = container["readinessProbe"]
    announced_s = float(given["TOLLBRIDGE_DRAIN_ANNOUNCE_S"])
    assert announced_s >= probe["periodSeconds"] * probe.get("failureThreshold", 3)
    assert float(given["TOLLBRIDGE_DRAIN_GRACE_S"]) >= TimeoutsSection().total


@pytest.mark.parametrize("service", ["router", "billing", "edge"])
def test_what_the_config_refers_to_reaches_the_service_that_owns_it(built: list[dict[str, Any]], service: str) -> None:
    """A `${STRIPE_SECRET_KEY}` of the config comes from a secret of that service alone, which need not be."""
    given = workload(built, service)["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    assert given == [{"secretRef": {"name": f"tollbridge-config-{service}", "optional": True}}]


def test_the_ledger_is_proven_every_night(built: list[dict[str, Any]]) -> None:
    """Both deployments run the same command; a difference fails the job at once, and no two proofs run at once."""
    from cli.prove import DIFFERENCES

    job = next(each for each in built if each["kind"] == "CronJob")["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    container = job["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["tollbridge", "ledger", "prove"]
    assert {each["name"] for each in container["env"]} == {"TOLLBRIDGE_NATS_URL", "TOLLBRIDGE_DATABASE_URL"}
    rule = job["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [DIFFERENCES])
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["ledger-proof"]
    assert composed["entrypoint"][:3] == container["command"]
    minute, hour = job["schedule"].split()[:2]
    assert composed["entrypoint"][3:] == ["--daily", f"{hour:0>2}:{minute:0>2}"]
