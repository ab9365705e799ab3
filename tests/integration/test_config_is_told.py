"""An operator sees which configuration runs, everywhere it runs, and what operators did."""

import hashlib
import json
import subprocess
import sys

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


def test_what_an_operator_did_is_listed_at_the_command_line(system: Gateway) -> None:
    """Who, what and how it ended, from a running instance."""
    made = system.admin("POST", "/admin/customers", name="logged", credit_usd="3")
    command = [sys.executable, "-m", "cli", "admin", "audit", "--path", "/admin/customers", "--json"]
    done = subprocess.run(
        [*command, "--data-dir", str(system.data_dir)], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [
        row for row in json.loads(done.stdout)["data"] if row["parameters"].get("body", {}).get("name") == "logged"
    ]
    assert made["name"] == "logged"
    assert [(row["method"], row["outcome"]["status"]) for row in lines] == [("POST", 201)]
    assert lines[0]["actor"].startswith("token:")
