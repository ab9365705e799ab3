"""A changed config file reaches every replica of every service within two seconds, or nobody, while requests run."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.offer import CONFIG
from tests.integration.running import Gateway, gateway, provider, wait_until
from tests.patience import promised

WITHIN_S = promised(2.0)
REPLICAS = {"edge": 2, "auth": 2, "router": 2, "billing": 2, "tasks": 2}
SERVICES = tuple(REPLICAS)
pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two replicas of everything, on a file of their own."""
    directory: Path = tmp_path_factory.mktemp("reload")
    with (
        provider(directory) as fake,
        gateway(directory, CONFIG % {"provider": fake.url}, replicas=REPLICAS) as system,
    ):
        yield system


def config_of(running: Gateway) -> Path:
    return running.data_dir.parent / "tollbridge.yaml"


def told(running: Gateway) -> dict[str, tuple[str, bool]]:
    """The hash that each replica runs, and whether it tells that the file is refused, by its own metrics."""
    found = {}
    for each in running.ready["services"]:
        if each["name"] in SERVICES:
            text = httpx.get(f"http://{each['metrics']}/metrics", timeout=10).text
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            in_use = next(line for line in lines if "_config_in_use{" in line)
            refused = next(line for line in lines if "_config_refused " in line)
            found[f"{each['name']}-{each['replica']}"] = (in_use.split('"')[1], float(refused.split()[-1]) == 1)
    return found


def until_all(running: Gateway, wanted: tuple[str, bool]) -> float:
    """Seconds until every replica tells that."""
    began = time.monotonic()
    wait_until(lambda: set(told(running).values()) == {wanted}, timeout_s=20, what=f"all tell {wanted}")
    took_s = time.monotonic() - began
    assert took_s < WITHIN_S, took_s
    return took_s


def test_every_replica_runs_a_changed_file_in_two_seconds(running: Gateway) -> None:
    """All ten, and a plan that it adds is there for the next request."""
    assert len(told(running)) == 10
    text = config_of(running).read_text() + "\n# another version\n"
    config_of(running).write_text(text)
    until_all(running, (hashlib.sha256(text.encode()).hexdigest(), False))


@pytest.mark.parametrize(
    "mistake", ["nonsense: 1", "cors: {origins: 5}", "spool: {sync: never}", "keys: {prefix: 7 7}"]
)
def test_a_file_with_one_wrong_section_is_applied_by_nobody(running: Gateway, mistake: str) -> None:
    """Each replica runs on with the former one and says so; mending the file ends that."""
    text = config_of(running).read_text()
    before = hashlib.sha256(text.encode()).hexdigest()
    config_of(running).write_text(f"{text}\n{mistake}\n")
    until_all(running, (before, True))
    shown = running.admin("GET", "/admin/config")
    assert str(config_of(running)) in shown["error"]
    assert set(shown["replicas"].values()) == {before}
    mended = f"{text}# mended\n"
    config_of(running).write_text(mended)
    until_all(running, (hashlib.sha256(mended.encode()).hexdigest(), False))


def test_a_replica_that_dies_while_the_file_is_wrong_comes_back(running: Gateway) -> None:
    """It starts on the file that passed last, and tells the mistake as all others do."""
    text = config_of(running).read_text()
    before = hashlib.sha256(text.encode()).hexdigest()
    config_of(running).write_text("models: 5\n")
    until_all(running, (before, True))
    for name in ("router", "edge"):
        running.restart(name, replica=1)

    def all_tell() -> bool:
        try:
            return set(told(running).values()) == {(before, True)}
        except httpx.TransportError:
            return False

    wait_until(all_tell, timeout_s=30, what="everybody is back on the former file")
    config_of(running).write_text(text)
    until_all(running, (before, False))


def test_a_gate_that_is_killed_is_started_again(running: Gateway) -> None:
    """Its death costs a change nothing but a moment."""
    former = running.pid("config")
    os.kill(former, signal.SIGKILL)
    text = config_of(running).read_text() + "\n# after the gate\n"
    config_of(running).write_text(text)
    wait_until(
        lambda: set(told(running).values()) == {(hashlib.sha256(text.encode()).hexdigest(), False)},
        timeout_s=20,
        what="the change has arrived",
    )
    assert running.pid("config") != former
