"""An operator sees which configuration runs, everywhere it runs."""

import hashlib

import httpx

from tests.integration.running import Gateway


def test_every_service_says_that_it_runs_the_file(system: Gateway) -> None:
    """The hash of the file's bytes, from every replica of all five, and nothing refused."""
    shown = system.admin("GET", "/admin/config")
    wanted = hashlib.sha256((system.data_dir.parent / "tollbridge.yaml").read_bytes()).hexdigest()
    assert {name.partition("/")[0] for name in shown["replicas"]} == {"auth", "router", "billing", "tasks", "edge"}
    assert set(shown["replicas"].values()) == {wanted}
    assert shown["error"] is None


def test_edges_metrics_name_the_config_and_hold_no_creation_times(system: Gateway) -> None:
    """What Prometheus scrapes is what is worth a series."""
    metrics = httpx.get(f"{system.base_url}/metrics").text
    assert 'tollbridge_config_in_use{hash="' in metrics
    assert "tollbridge_config_refused 0\n" in metrics
    assert "_created" not in metrics
