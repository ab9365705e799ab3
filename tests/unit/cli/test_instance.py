"""The supervisor of `tollbridge up`, with the real servers and stand-in services."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from cli.up.command import SAME_REQUEST_S
from cli.up.local_models import URL_VARIABLE
from cli.up.ports import pick_ports
from cli.up.process import identify, is_alive
from tests.patience import promised
from tests.unit.cli.stand_ins import give_demo_key, read_ready, write_stand_ins
from upstream.local.installed import PACKAGES

WITHIN_S = 30.0
NOTHING: Mapping[str, str] = MappingProxyType({})


class Up:
    """A `tollbridge up` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.kept = contextlib.ExitStack()
        self.port = pick_ports(1, kept=self.kept)[0]
        self.notes = write_stand_ins(folder)
        self.process: subprocess.Popen | None = None
        give_demo_key(self.data_dir)

    def start(self, *arguments: str, environ: Mapping[str, str] = NOTHING, without: str = "") -> None:
        command = [sys.executable, "-m", "cli", "up", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        path = os.pathsep.join([str(self.folder), str(Path(__file__).parents[3])])
        told = {**os.environ, "PYTHONPATH": path, "STAND_IN_NOTES": str(self.notes), **environ}
        told.pop(without, None)
        with (self.folder / "output").open("a") as output:
            self.process = subprocess.Popen(
                [*command, *arguments], env=told, stdout=output, stderr=output, cwd=self.folder
            )

    def until(self, condition):
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.01)
        raise AssertionError(f"not within {WITHIN_S} s: {self.output()}")

    def ready(self) -> dict:
        return self.until(lambda: read_ready(self.data_dir))

    def pid_of(self, name: str) -> int:
        return next(each["pid"] for each in read_ready(self.data_dir)["services"] if each["name"] == name)

    def identities(self) -> list:
        return [identify(each["pid"]) for each in self.ready()["services"]]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=WITHIN_S)

    def output(self) -> str:
        return (self.folder / "output").read_text()


@pytest.fixture
def up(tmp_path):
    """An instance that is not started yet; whatever a test does, it ends."""
    instance = Up(tmp_path)
    yield instance
    if instance.process is not None and instance.process.poll() is None:
        instance.end(signal.SIGTERM)
    instance.kept.close()


def test_ready_json_has_the_promised_shape_and_is_private(up):
    """Scripts find an instance by this file, and only its owner reads it."""
    up.start("--replicas", "router=2")
    ready = up.ready()
    assert ready["base_url"] == f"http://127.0.0.1:{up.port}"
    assert ready["console_url"] == f"http://127.0.0.1:{up.port}/console"
    assert ready["demo_key"] == "tb_live_demo"
    assert ready["admin_token"]
    assert ready["demo_customer_id"]
    assert ready["nats_url"].startswith("nats://")
    assert ready["database_url"].startswith("postgresql://")
    rows = {(each["name"], each.get("replica")): each for each in ready["services"]}
    assert set(rows) == {
        ("edge", 0), ("auth", 0), ("router", 0), ("router", 1), ("billing", 0), ("tasks", 0),
        ("nats", None), ("postgres", None), ("config", None),
    }  # fmt: skip
    assert set(rows["edge", 0]) == {"name", "replica", "pid", "http", "metrics"}
    assert set(rows["auth", 0]) == {"name", "replica", "pid", "grpc", "metrics"}
    assert set(rows["nats", None]) == {"name", "pid"}
    assert (up.data_dir / "ready.json").stat().st_mode & 0o777 == 0o600
    shown = up.until(lambda: "Ctrl-C" in up.output() and up.output())
    assert "demo key  tb_live_demo" in shown
    assert "console" not in shown  # its URL is kept in the file, but nothing is there to be shown yet


def test_where_local_models_are_installed_they_run_in_a_process_of_their_own(up):
    """It is listed, it is offered, its death is repaired and nobody else's, and it is told no secret."""
    for name in PACKAGES:
        (up.folder / name).mkdir()
        (up.folder / name / "__init__.py").touch()
    up.start(environ={"OPENAI_API_KEY": "canary"}, without=URL_VARIABLE)
    row = next(each for each in up.ready()["services"] if each["name"] == "local-models")
    assert set(row) == {"name", "pid", "http"}
    assert "smollm2" in (up.data_dir / "config.yaml").read_text()
    told = Path(f"/proc/{row['pid']}/environ")
    if told.exists():
        assert b"canary" not in told.read_bytes()
    edge = up.pid_of("edge")
    os.kill(row["pid"], signal.SIGKILL)
    assert up.until(lambda: up.pid_of("local-models") != row["pid"] and identify(up.pid_of("local-models")))
    assert up.pid_of("edge") == edge
    processes = up.identities()
    assert up.end() == 0
    assert not any(is_alive(each) for each in processes)


def test_sigterm_stops_edge_first_and_leaves_no_process_and_no_ready_json(up):
    """An orderly stop ends everything it started, those who are needed longest at last."""
    up.start()
    processes = up.identities()
    assert up.end() == 0
    assert (up.notes / "stops").read_text().split()[:2] == ["edge", "tasks"]
    assert not any(is_alive(each) for each in processes)
    assert not (up.data_dir / "ready.json").exists()


@pytest.mark.parametrize("name", ["edge", "billing", "nats", "postgres"])
def test_a_killed_process_is_back_at_its_old_address(up, name):
    """One death is repaired at once, and ready.json says by whom."""
    up.start()
    before = up.ready()
    old = up.pid_of(name)
    os.kill(old, signal.SIGKILL)
    new = up.until(lambda: up.pid_of(name) != old and up.pid_of(name))
    assert up.until(lambda: identify(new))
    after = read_ready(up.data_dir)
    hide = [{key: value for key, value in each.items() if key != "pid"} for each in before["services"]]
    assert hide == [{key: value for key, value in each.items() if key != "pid"} for each in after["services"]]
    assert (before["nats_url"], before["database_url"]) == (after["nats_url"], after["database_url"])


def test_children_die_with_a_killed_supervisor_and_the_next_start_recovers(up):
    """SIGKILL of the supervisor takes everybody along; a new start on the same data is ready again."""
    up.start()
    processes = up.identities()
    up.end(signal.SIGKILL)
    up.until(lambda: not any(is_alive(each) for each in processes))
    (up.data_dir / "ready.json").rename(up.folder / "stale.json")
    up.start()
    assert up.ready()["demo_key"] == "tb_live_demo"


def test_orphans_that_hold_the_port_are_ended_by_the_next_start(up):
    """Where the kernel leaves children alive, edge still listens: it is ended first, and then the port is free."""
    for name in ("edge", "router"):
        (up.notes / f"{name}.untied").touch()
    up.start()
    left = [identify(up.until(lambda name=name: up.ready() and up.pid_of(name))) for name in ("edge", "router")]
    up.end(signal.SIGKILL)
    assert all(is_alive(each) for each in left)
    (up.data_dir / "ready.json").rename(up.folder / "stale.json")
    up.start()
    up.ready()
    assert not any(is_alive(each) for each in left)
    assert "ended 2 processes" in up.output()


def test_a_data_directory_in_use_is_refused(up, tmp_path):
    """Two instances never share data: the second says who has it, and the first is not disturbed."""
    up.start()
    up.ready()
    first = up.process
    up.start("--port", str(pick_ports(1)[0]))
    assert up.process.wait(timeout=WITHIN_S) == 2
    up.process = first
    assert "in use by another running instance" in up.output()
    assert first.poll() is None


def test_a_taken_port_is_an_error(up):
    """The port is part of the contract: it is never replaced by another."""
    import socket

    with socket.create_server(("127.0.0.1", up.port)):
        up.start()
        assert up.process.wait(timeout=WITHIN_S) == 2
    assert "--port" in up.output()


def test_a_service_that_cannot_start_fails_the_start_with_its_log(up):
    """A start that can't succeed ends by itself, says why, and leaves nothing."""
    (up.notes / "router.refuse").touch()
    up.start()
    assert up.process.wait(timeout=WITHIN_S) == 1
    assert "stand-in refuses to start" in up.output()
    assert not (up.data_dir / "processes.json").exists()


def test_a_rolling_restart_replaces_every_service_on_its_address_successor_first(up):
    """Owners before edges, nobody before its successor is ready; servers and gate stay; nothing is left at the end.

    Who asks while it goes on is heard afterwards: what they want started may be newer than what was started.
    """
    up.start("--replicas", "edge=2,auth=2")
    before = {(each["name"], each.get("replica")): each for each in up.ready()["services"]}
    (up.notes / "starts").unlink()
    restart = [sys.executable, "-m", "cli", "restart", "--data-dir", str(up.data_dir)]
    subprocess.run(restart, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})
    up.until(lambda: "was replaced" in up.output())
    up.process.send_signal(signal.SIGUSR1)
    for count in (1, 2):
        up.until(lambda count=count: up.output().count("rolling restart done") == count)
    after = {(each["name"], each.get("replica")): each for each in up.ready()["services"]}
    assert list(after) == list(before)
    for place, row in after.items():
        stays = row["name"] in ("nats", "postgres", "config")
        assert (row["pid"] == before[place]["pid"]) is stays
        for kind in ("http", "grpc", "metrics"):  # of metrics, back to that of the first one
            assert row.get(kind) == before[place].get(kind)
        assert stays or identify(before[place]["pid"]) is None
    started = [line.split()[0] for line in (up.notes / "starts").read_text().splitlines()]
    stopped = (up.notes / "stops").read_text().split()
    assert started == stopped
    once = started[: len(started) // 2]
    assert (started, once[-2:]) == (once * 2, ["edge", "edge"])
    processes = up.identities()
    assert up.end() == 0
    assert not any(is_alive(each) for each in processes)


def test_a_successor_that_cannot_start_leaves_everything_as_it_is(up):
    """The restart is given up with the reason, and what ran before runs on."""
    up.start()
    before = up.identities()
    (up.notes / "auth.refuse").touch()
    up.process.send_signal(signal.SIGUSR1)
    up.until(lambda: "rolling restart given up" in up.output())
    assert "stand-in refuses to start" in up.output()
    assert up.identities() == before
    assert all(is_alive(each) for each in before)


def test_a_restart_begins_with_the_schemas_that_new_code_needs(up):
    """A database that can't be migrated leaves everything as it is."""
    up.start()
    before = up.identities()
    os.kill(up.pid_of("postgres"), signal.SIGSTOP)
    try:
        up.process.send_signal(signal.SIGUSR1)
        up.until(lambda: "rolling restart given up" in up.output())
    finally:
        os.kill(up.pid_of("postgres"), signal.SIGCONT)
    assert up.identities() == before


def test_a_second_signal_cuts_the_drain_short(up):
    """Who asks twice doesn't wait for a service that drains for ever."""
    (up.notes / "edge.deaf").touch()
    up.start()
    processes = up.identities()
    up.process.send_signal(signal.SIGINT)
    up.until((up.notes / "stops").exists)
    began = time.monotonic()
    up.until(lambda: time.monotonic() - began > SAME_REQUEST_S)
    assert up.end(signal.SIGINT) == 0
    assert time.monotonic() - began < promised(10)
    assert not any(is_alive(each) for each in processes)
