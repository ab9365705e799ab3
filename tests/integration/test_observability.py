"""Alerts, dashboards and the page about metrics speak of what a running system shows, and of nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import Metric
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
MADE_UP = "madeupbyaclient"


@pytest.fixture(scope="module")
def families(system: Gateway) -> list[Metric]:
    """Every metric of every process, after a request that was served and some that were not."""
    account = system.customer(credit_usd="1")
    for model, key in (("alpha-chat", account.key), (MADE_UP, account.key), ("alpha-chat", f"tb_live_{MADE_UP}")):
        body = {"model": model, "user": MADE_UP, "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"authorization": f"Bearer {key}", "x-request-id": MADE_UP, "user-agent": MADE_UP}
        httpx.post(f"{system.base_url}/v1/chat/completions", headers=headers, json=body, timeout=30)
        httpx.get(f"{system.base_url}/v1/{MADE_UP}", headers=headers, timeout=30)
    found: list[Metric] = []
    for service in system.ready["services"]:
        if "metrics" not in service:
            continue
        found += text_string_to_metric_families(httpx.get(f"http://{service['metrics']}/metrics").text)
    return found


@pytest.fixture(scope="module")
def shown(families: list[Metric]) -> dict[str, frozenset[str]]:
    """The names of all metrics, with the labels of their samples."""
    found: dict[str, frozenset[str]] = {}
    for family in families:
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


def test_no_label_holds_what_a_client_made_up(families: list[Metric]) -> None:
    """Not a model, a key, a path or an id: else whoever wants could make series without end."""
    values = {value for family in families for sample in family.samples for value in sample.labels.values()}
    assert not [value for value in values if MADE_UP in value]


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
