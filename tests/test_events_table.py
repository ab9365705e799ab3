"""The table of events in ARCHITECTURE.md says what the code says: subjects, streams, durables, and who publishes."""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from chassis.bus import ConsumerSpec
from chassis.streams import StreamSpec

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("edge", "auth", "router", "billing", "tasks")
_SUBJECT = re.compile(r"tollbridge(\.[a-z0-9_]+)+(\.\*)?")
_QUOTED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    subject: str
    stream: str
    publishers: frozenset[str]
    durables: frozenset[str]


def table() -> list[Row]:
    rows = []
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 5 or not cells[0].startswith("`tollbridge."):
            continue
        rows.append(
            Row(
                subject=cells[0].strip("`"),
                stream=cells[1].strip("`"),
                publishers=frozenset(name.strip() for name in cells[2].split(",")),
                durables=frozenset(_QUOTED.findall(cells[3])),
            )
        )
    return rows


def events_modules() -> dict[str, ModuleType]:
    return {
        service: importlib.import_module(f"services.{service}.events")
        for service in SERVICES
        if (ROOT / "services" / service / "events.py").exists()
    }


def constants(kind: type) -> dict[str, list]:
    """By service, the constants of that kind in its events.py."""
    return {
        service: [value for name, value in vars(module).items() if name.isupper() and isinstance(value, kind)]
        for service, module in events_modules().items()
    }


def covers(pattern: str, subject: str) -> bool:
    """Whether a NATS subject pattern covers a subject."""
    regex = re.escape(pattern).replace(r"\*", r"[^.]+")
    if regex.endswith(">"):
        regex = regex.removesuffix(">") + ".+"
    return re.fullmatch(regex, subject) is not None


def test_every_subject_of_the_code_is_in_the_table_and_the_other_way_round():
    """Nobody finds a subject that nobody wrote down."""
    in_code = {text for texts in constants(str).values() for text in texts if _SUBJECT.fullmatch(text)}
    assert in_code == {row.subject for row in table()}


@pytest.mark.parametrize("row", table(), ids=lambda row: row.subject)
def test_who_publishes_knows_the_subject(row: Row):
    """As a constant in its own events.py."""
    knows = {service for service, texts in constants(str).items() if row.subject in texts}
    assert row.publishers <= knows


@pytest.mark.parametrize("row", table(), ids=lambda row: row.subject)
def test_a_subject_is_in_its_stream_and_in_no_other(row: Row):
    """`none` means that no stream keeps it."""
    specs = [spec for found in constants(StreamSpec).values() for spec in found]
    keeping = {spec.name for spec in specs if any(covers(pattern, row.subject) for pattern in spec.subjects)}
    assert keeping == (set() if row.stream == "none" else {row.stream})


@pytest.mark.parametrize("row", table(), ids=lambda row: row.subject)
def test_a_subjects_durables_are_the_consumers_of_the_code(row: Row):
    """Named `<service>-<verb>-<object>`, in the service that consumes."""
    found = {
        spec.durable: service
        for service, specs in constants(ConsumerSpec).items()
        for spec in specs
        if covers(spec.subject, row.subject)
    }
    assert set(found) == row.durables
    for durable, service in found.items():
        assert durable.startswith(f"{service}-")
        assert durable.count("-") == 2


def test_services_that_name_the_same_stream_want_the_same_of_it():
    """Whoever comes first makes it, so they must agree."""
    wanted: dict[str, set[StreamSpec]] = {}
    for specs in constants(StreamSpec).values():
        for spec in specs:
            wanted.setdefault(spec.name, set()).add(spec)
    assert {name for name, specs in wanted.items() if len(specs) > 1} == set()
