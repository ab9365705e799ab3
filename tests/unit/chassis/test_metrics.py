"""What metrics are called."""

from pathlib import Path

import pytest
from prometheus_client import Counter, Histogram

from chassis.config import ConfigError
from chassis.metrics import PrefixedRegistry, open_registry


def names(registry: PrefixedRegistry) -> set[str]:
    return {sample.name for metric in registry.collect() for sample in metric.samples}


def test_names_begin_with_the_prefix_and_samples_keep_their_endings() -> None:
    """Only ours: what is of the process keeps its name, and label values are nobody's name."""
    registry = PrefixedRegistry(prefix="drawbridge")
    Counter("tollbridge_requests", "Requests", ["model"], registry=registry).labels("tollbridge_x").inc()
    Histogram("tollbridge_seconds", "Seconds", registry=registry)
    assert {"drawbridge_requests_total", "drawbridge_seconds_bucket", "drawbridge_seconds_sum"} <= names(registry)
    assert not any(name.startswith("tollbridge") for name in names(registry))
    models = {s.labels.get("model") for m in registry.collect() for s in m.samples if s.name.endswith("requests_total")}
    assert models == {"tollbridge_x"}


def test_a_collector_keeps_its_names_for_the_next_scrape() -> None:
    """Renaming is of what is shown."""
    registry = PrefixedRegistry(prefix="other")
    Counter("tollbridge_requests", "Requests", registry=registry)
    assert names(registry) == names(registry)


def test_the_prefix_comes_from_the_file_and_is_tollbridge_without_one(tmp_path: Path) -> None:
    """A service needs no other section of the file, nor its secrets."""
    file = tmp_path / "tollbridge.yaml"
    file.write_text("metrics: {prefix: seed}\nproviders: [{id: a, api_key: '${NOBODY_HAS_SET_THIS}'}]\n")
    for registry, expected in (
        (open_registry(str(file)), "seed_calls_total"),
        (open_registry(""), "tollbridge_calls_total"),
    ):
        Counter("tollbridge_calls", "Calls", registry=registry)
        assert expected in names(registry)


def test_a_prefix_that_can_begin_no_name_is_refused(tmp_path: Path) -> None:
    """With its line and key, before anything runs."""
    file = tmp_path / "tollbridge.yaml"
    file.write_text("metrics: {prefix: a-b}\n")
    with pytest.raises(ConfigError, match=r"tollbridge.yaml:1: metrics.prefix"):
        open_registry(str(file))
