"""What CI tries in containers stands in for what the Dockerfile and docker-compose.yml name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import ReadTimeoutError

from tests import containers
from tests.unit.deploy.cluster import ROOT

CI = ROOT / "deploy" / "ci"


def test_every_image_that_compose_does_not_build_has_a_stand_in() -> None:
    """The script that starts the file replaces each of them by one that is made."""
    named = set(re.findall(r"\$\{(\w+_IMAGE):-", (ROOT / "docker-compose.yml").read_text()))
    made = set(re.findall(r"^build ([\w-]+)$", (CI / "stand_ins.sh").read_text(), re.M))
    replaced = dict(re.findall(r"\b(\w+_IMAGE)=stand-in/([\w-]+):1", (CI / "try_compose.sh").read_text()))
    assert named <= set(replaced)
    assert set(replaced.values()) <= made


def test_the_stand_in_of_the_base_has_its_python_and_debian() -> None:
    """What is tried is what would be shipped, as far as Debian's packages go."""
    base = re.search(r"python:([\d.]+)-slim-(\w+)", (ROOT / "Dockerfile").read_text())
    script = (CI / "download.sh").read_text()
    assert base is not None
    assert f"\npython={base[1]}\n" in script
    assert f"\nrelease={base[2]}\n" in script


def test_tests_in_containers_take_the_compose_files_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the same variable names another."""
    monkeypatch.delenv("POSTGRES_IMAGE", raising=False)
    monkeypatch.setenv("NATS_IMAGE", "mine/nats:1")
    assert containers.image("NATS_IMAGE") == "mine/nats:1"
    assert f":-{containers.image('POSTGRES_IMAGE')}}}" in (ROOT / "docker-compose.yml").read_text()


def test_a_registry_that_stops_within_an_image_leaves_tests_their_embedded_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Docker's client passes on what the connection says; whoever wants containers is told."""
    stopped = ReadTimeoutError(HTTPConnectionPool("engine"), "/images/create", "Read timed out.")

    def pull() -> None:
        raise stopped

    monkeypatch.setattr(containers, "_find_images", pull)
    monkeypatch.delenv("TOLLBRIDGE_TEST_SERVERS", raising=False)
    assert "Read timed out" in containers.reason_against.__wrapped__()
    monkeypatch.setenv("TOLLBRIDGE_TEST_SERVERS", "containers")
    with pytest.raises(ReadTimeoutError):
        containers.reason_against.__wrapped__()


def test_who_is_not_root_is_told_why_nothing_is_tried(tmp_path: Path) -> None:
    """And it is no failure, unless it was said to be one; who only prepares is told not to come back."""
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLLBRIDGE_CI_CACHE": str(tmp_path / "cache")}
    for said, argument, status in (("", [], 0), ("required", [], 1), ("", ["prepare"], 75)):
        done = subprocess.run(
            [CI / "containers.sh", *argument],
            env=paths | {"TOLLBRIDGE_CONTAINERS": said},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.returncode) == ("containers: skipped, this needs root\n", status)


def test_the_engine_takes_no_notice_of_one_that_the_machine_has(tmp_path: Path) -> None:
    """That one's containerd would start what is tried in the machine's own namespaces."""
    covered = ["mount", "-t", "tmpfs", "tmpfs", "/run"]
    apart = ["unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc"]
    if os.geteuid() != 0 or subprocess.run([*apart, *covered], capture_output=True, check=False).returncode != 0:
        pytest.skip("no namespaces of one's own here")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("ip", ""), ("docker", "exit 1"), ("dockerd", "ls -A /run/containerd; echo asked")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    listen = "import socket; socket.socket(socket.AF_UNIX).bind('/run/containerd/containerd.sock')"
    script = f'{" ".join(covered)} && mkdir /run/containerd && {sys.executable} -c "{listen}" && exec "$@"'
    done = subprocess.run(
        [*apart, "sh", "-c", script, "sh", CI / "engine.sh", tmp_path, "true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("asked\n", 75), done.stderr


def test_what_the_machine_has_is_not_removed_for_our_engine() -> None:
    """Docker's own packages exclude Debian's: then nothing is tried, instead of the machine's engine being gone."""
    (installs,) = re.findall(r"install -y[^;]*", (CI / "containers.sh").read_text())
    assert "--no-remove" in installs
