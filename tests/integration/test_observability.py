"""Alerts, dashboards and the page about metrics speak of what a running system shows, and of nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.running import Gateway

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
PAGE = (FOLDER / "README.md").read_text()
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
ROW = re.compile(r"^\| `(tollbridge_\w+)` \|([\w, ]*)\|", re.MULTILINE)
LABELS_OF = {name: frozenset(re.findall(r"\w+", labels)) for name, labels in ROW.findall(PAGE)}
OF_THE_SCRAPE = frozenset({"job", "instance", "service"})
"""Labels that Prometheus puts on everything, by `prometheus.yaml`."""
NAME = re.compile(r"\b(?:tollbridge_\w+|process_\w+|up)\b")
ENDINGS = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def shown(system: Gateway) -> dict[str, frozenset[str]]:
    """Every metric of a system that has served and refused a request, with the labels of its samples."""
    account = system.customer(credit_usd="1")
    for model in ("alpha-chat", "made-up"):
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
        httpx.post(f"{system.base_url}/v1/chat/completions", headers=account.headers, json=body, timeout=30)
    found: dict[str, frozenset[str]] = {}
    for service in system.ready["services"]:
        if "metrics" not in service:
            continue
        for family in text_string_to_metric_families(httpx.get(f"http://{service['metrics']}/metrics").text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = found.get(name, frozenset()) | labels
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression that Prometheus is asked, and where it stands."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for file in sorted((FOLDER / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", target["expr"]


def names_in(expression: str) -> set[str]:
    """Metrics that it asks for, histograms without their samples' endings."""
    bare = re.sub(r'"[^"]*"', '""', re.sub(r"\b(?:by|without) \([^)]*\)", "", expression))
    found = {re.sub(r"\{.*", "", name) for name in NAME.findall(bare)}
    return {next((name.removesuffix(end) for end in ENDINGS if name.endswith(end)), name) for name in found}


def labels_in(expression: str) -> set[str]:
    """Labels that it selects or groups by."""
    grouped = [name for inner in re.findall(r"\bby \(([^)]*)\)", expression) for name in re.findall(r"\w+", inner)]
    return {*re.findall(r"(\w+) *(?:=~|!~|!=|=)\s*\"", expression), *grouped}


def test_the_page_names_every_metric_that_is_shown(shown: dict[str, frozenset[str]]) -> None:
    """And no other; with the labels that its samples have."""
    ours = {name: labels for name, labels in shown.items() if name.startswith("tollbridge_")}
    assert sorted(ours) == sorted(LABELS_OF)
    assert {name: labels for name, labels in ours.items() if labels and labels != LABELS_OF[name]} == {}


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_alerts_and_dashboards_ask_for_what_is_shown(
    place: str, expression: str, shown: dict[str, frozenset[str]]
) -> None:
    """Its metrics exist, and every label that it selects or groups by is one of theirs or of the scrape."""
    names = names_in(expression)
    assert names, place
    assert names <= shown.keys() | {"up"}
    known = {label for name in names for label in LABELS_OF.get(name, ())}
    assert labels_in(expression) <= known | OF_THE_SCRAPE | {"le"}
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    """A severity, a summary whose labels its expression keeps, and a row below the heading that it points to."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (FOLDER.parents[1] / file).read_text() == PAGE
    section = re.split(r"(?m)^##+ ", PAGE.split(f"\n### {anchor.capitalize()}\n")[1])[0]
    assert f"| `{rule['alert']}` |" in section
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    kept = labels_in(rule["expr"]) | (OF_THE_SCRAPE if " by (" not in rule["expr"] else set())
    assert told <= kept


def test_the_page_has_no_row_for_an_alert_that_is_gone() -> None:
    """What stands in its first column is an alert."""
    rows = re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(str(rule["alert"]) for rule in RULES)


def test_the_example_of_a_scrape_names_the_rules() -> None:
    """And puts the label on, by which replicas of a service are told apart from other services."""
    example = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert all((FOLDER / name).exists() for name in example["rule_files"])
    assert all(job["job_name"].startswith("tollbridge") for job in example["scrape_configs"])
