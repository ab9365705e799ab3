"""docs/operating.md names alerts, metrics, settings and commands that there are, and the bounds that the code has."""

import importlib
import re
from pathlib import Path

import msgspec
import pytest
import typer
import yaml

from cli.__main__ import app
from services.billing import events, partitions
from services.billing.config import LEAST_KEPT_DAYS
from services.billing.holding.leases import LEASE_LIVES_S
from services.edge.http.door import MOST_INSIDE
from services.edge.http.protocol import MOST_CONNECTIONS
from services.router import slot_batches

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "operating.md").read_text()
FAILURES = PAGE.split("\n## When something fails\n")[1].split("\n## ")[0]
OBSERVABILITY = ROOT / "deploy" / "observability"
GROUPS = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())["groups"]
ALERTS = {rule["alert"] for group in GROUPS for rule in group["rules"]}
SERVICES = ("edge", "auth", "router", "billing", "tasks")
NO_ALERT = {"CreateCustomer", "UsageRecorded"}
"""Names that look as those of alerts do."""


def test_the_failure_table_names_every_alert_and_no_other() -> None:
    """Whoever is woken by one finds a row."""
    assert {*re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", FAILURES)} == ALERTS


def test_the_page_names_no_alert_that_is_not_there() -> None:
    """Outside of that table, too."""
    assert {*re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", PAGE)} <= ALERTS | NO_ALERT


def test_the_page_names_metrics_that_there_are() -> None:
    """By the table of all metrics, which a test holds against a running system."""
    known = set(re.findall(r"^\| `(tollbridge_\w+)`", (OBSERVABILITY / "README.md").read_text(), re.MULTILINE))
    named = set(re.findall(r"\btollbridge_[a-z_]+", PAGE))
    assert named
    assert named <= known


def test_the_page_names_settings_that_there_are() -> None:
    """Each `TOLLBRIDGE_…` is a field of a service's settings."""
    classes = [importlib.import_module(f"services.{name}.settings").Settings for name in SERVICES]
    known = {f"TOLLBRIDGE_{field.name.upper()}" for kind in classes for field in msgspec.structs.fields(kind)}
    named = set(re.findall(r"\bTOLLBRIDGE_[A-Z_]+\b", PAGE.replace("{IMAGE,SPEECH,VIDEO}", "IMAGE")))
    assert named
    assert named <= known


def test_the_page_names_commands_that_there_are() -> None:
    """With their first words and their options."""
    group = typer.main.get_command(app)
    for line in re.findall(r"`tollbridge ([^`]+)`", PAGE):
        command, words = group, line.split()
        while words and hasattr(command, "commands"):
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_page_links_to_what_is_there() -> None:
    """Relative links, without their anchors."""
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.mark.parametrize(
    ("told", "is_so"),
    [
        (
            "30 days and 8 GiB each",
            {(s.max_bytes, s.max_age_s) for s in (events.USAGE, events.LEDGER)} == {(8 << 30, 2_592_000)},
        ),
        (
            "8 GiB are 30 days of 7 requests/s and 19 transfers/s",
            [events.STREAM_BYTES // events.STREAM_S // each for each in (470, 170)] == [7, 19],
        ),
        ("12,000 requests at most", MOST_INSIDE == 12_000),
        ("16,384 connections", MOST_CONNECTIONS == 16_384),
        ("5 ms apart and of 256 at most", (slot_batches.PACE_S, slot_batches.MOST) == (0.005, 256)),
        ("expire after 40 s", LEASE_LIVES_S == 40),
        ("5 million an hour and replica", partitions.STEP_ROWS * partitions.MAX_STEPS == 5_000_000),
        ("`usage_kept_days` 40 at least", LEAST_KEPT_DAYS == 40),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_bounds_are_those_of_the_code(told: str, is_so: bool) -> None:
    """What the page marks as the code's word."""
    assert told in PAGE
    assert is_so
