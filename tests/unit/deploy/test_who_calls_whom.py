"""«Who calls whom» in ARCHITECTURE.md, the code, what pods are told and what policies let pass say the same."""

import re
from typing import NamedTuple

import pytest

from tests.unit.deploy.cluster import ROOT, Manifest, label, manifests, template, workloads

SERVICES = ("edge", "auth", "router", "billing", "tasks")
PORTS = (9000, 4222, 5432)
"""Of those whose addresses are settings."""


class Arrow(NamedTuple):
    """Who opens a connection to whom, and to which port."""

    caller: str
    called: str
    port: int


def table() -> set[Arrow]:
    """The arrows of the document, one for each pair of names in a line."""
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## Who calls whom")[2].partition("\n## ")[0]
    lines = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in section.splitlines() if line.startswith("| ")
    ]
    return {
        Arrow(caller, called, int(port))
        for callers, them, port, _ in (line for line in lines if line[2].isdigit())
        for caller in callers.split(", ")
        for called in them.split(", ")
    }


@pytest.fixture(params=["base", "overlays/dev"])
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    """Every object of a variant."""
    return manifests(request.param)


def names(selector: Manifest, known: set[str]) -> set[str]:
    """The pods, by their names, that a selector of a policy means."""
    if not selector:
        return known
    found = {value for key, value in selector.get("matchLabels", {}).items() if key == "app.kubernetes.io/name"}
    for each in selector.get("matchExpressions", ()):
        assert (each["key"], each["operator"]) == ("app.kubernetes.io/name", "In")
        found |= set(each["values"])
    assert found <= known, "a policy is about pods that nobody makes"
    return found


def peers(rule: Manifest, key: str, known: set[str], port: int) -> set[str]:
    """Who is on the other side of a rule."""
    if key not in rule:
        return {"clients"} if key == "from" else {"PostgreSQL"} if port == 5432 else {"anybody"}
    found: set[str] = set()
    for peer in rule[key]:
        space = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
        if space is not None:
            found.add({"monitoring": "Prometheus", "kube-system": "DNS"}[space])
        elif "ipBlock" in peer:
            found.add("DNS" if port == 53 else "internet")
        else:
            found |= names(peer["podSelector"], known)
    return found


def let_pass(objects: list[Manifest]) -> tuple[set[Arrow], set[Arrow]]:
    """What policies let out of their pods, and what into them."""
    known = {label(each) for each in workloads(objects).values()} | {"spool-replay"}  # made by hand, when it is needed
    out: set[Arrow] = set()
    into: set[Arrow] = set()
    for policy in (each["spec"] for each in objects if each["kind"] == "NetworkPolicy"):
        mine = names(policy["podSelector"], known)
        for rule in policy.get("egress", ()):
            ports = {each["port"] for each in rule["ports"]}
            out |= {Arrow(me, peer, port) for me in mine for port in ports for peer in peers(rule, "to", known, port)}
        for rule in policy.get("ingress", ()):
            ports = {each["port"] for each in rule["ports"]}
            into |= {
                Arrow(peer, me, port) for me in mine for port in ports for peer in peers(rule, "from", known, port)
            }
    return out, into


def named(arrows: set[Arrow]) -> set[Arrow]:
    """With the names of the document."""
    return {
        arrow._replace(called={"nats": "NATS", "postgres": "PostgreSQL"}.get(arrow.called, arrow.called))
        for arrow in arrows
    }


def test_policies_let_pass_the_arrows_of_the_table_and_no_others(objects: list[Manifest]) -> None:
    """Whoever adds a call adds a line there, and a policy; DNS is everybody's."""
    out, into = let_pass(objects)
    arrows = {arrow for arrow in named(out | into) if arrow.called != "DNS"}
    assert arrows == table()


def test_both_ends_of_an_arrow_let_it_pass(objects: list[Manifest]) -> None:
    """A connection between two pods needs the caller's policy and the called one's."""
    out, into = let_pass(objects)
    inside = {label(each) for each in workloads(objects).values()} | {"spool-replay"}
    assert {arrow for arrow in out if arrow.called in inside} == {arrow for arrow in into if arrow.caller in inside}


def test_everything_else_is_kept_in_and_out(objects: list[Manifest]) -> None:
    """One policy denies it to every pod of the namespace, and none of the others is without ports."""
    policies = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies.values():
        for rule in (*policy.get("ingress", ()), *policy.get("egress", ())):
            assert rule["ports"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_table_has_the_calls_of_the_code(service: str) -> None:
    """Who uses the addresses of a service, the bus or the database is in the table, and who does not is not."""
    code = "\n".join(path.read_text() for path in (ROOT / "services" / service).rglob("*.py"))
    calls = {Arrow(service, called, 9000) for called in SERVICES if f".{called}_addresses" in code}
    calls |= {Arrow(service, "NATS", 4222) for _ in re.findall(r"\.nats_url\b|\bopen_bus\(", code)}
    calls |= {Arrow(service, "PostgreSQL", 5432) for _ in re.findall(r"\.database_url\b|\bservice_pool\(", code)}
    written = {arrow for arrow in table() if arrow.port in PORTS}
    for name in {service, f"{service}-worker"} & {arrow.caller for arrow in written}:
        assert {arrow._replace(caller=service) for arrow in written if arrow.caller == name} == calls


def test_pods_are_told_of_those_they_call_and_of_nobody_else(objects: list[Manifest]) -> None:
    """An address in a manifest is an arrow of the table, and the other way round."""
    told = set()
    for name in (*SERVICES, "tasks-worker"):
        env = template(workloads(objects)[name])["spec"]["containers"][0]["env"]
        values = {each["name"]: each.get("value", "") for each in env}
        for variable, address in values.items():
            if variable.endswith("_ADDRESSES"):
                called, _, port = address.partition(":")
                told.add(Arrow(name, called, int(port)))
        told |= {Arrow(name, "NATS", 4222) for url in [values.get("TOLLBRIDGE_NATS_URL")] if url == "nats://nats:4222"}
        told |= {Arrow(name, "PostgreSQL", 5432) for _ in {"TOLLBRIDGE_DATABASE_URL"} & values.keys()}
    ours = {*SERVICES, "tasks-worker"}
    assert told == {arrow for arrow in table() if arrow.caller in ours and arrow.port in PORTS}
