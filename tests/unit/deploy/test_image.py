"""The image's recipe: locked, small, without rights, and described."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from deploy.image import contents, sbom
from tests.unit.deploy.dockerfile import ROOT, Stage, stages

DPKG = """Package: libc6
Status: install ok installed
Architecture: amd64
Description: GNU C Library
 Status: of a continued line
Version: 2.41-12+deb13u1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1:2.0
"""


def stage(name: str) -> Stage:
    """The stage of that name."""
    return next(each for each in stages()[1] if each.name == name)


def test_every_base_is_named_with_a_version_and_can_be_replaced() -> None:
    """Bases are arguments whose defaults carry a tag that isn't `latest`, other stages, or nothing at all."""
    arguments, found = stages()
    known = {"scratch"}
    for each in found:
        if each.base not in known:
            default = arguments[each.base.strip("${}")]
            while default.startswith("${"):
                default = arguments[default.strip("${}")]
            assert re.fullmatch(r"\S+/\S+:(?!latest)[\w.-]+", default), default
        known.add(each.name)


def test_without_a_target_the_service_is_built() -> None:
    """The last stage is what `docker build` makes by itself."""
    last = stages()[1][-1]
    assert (last.base, last.instructions) == ("service", [])


def test_whatever_is_installed_is_locked_by_hash() -> None:
    """Each install asks for hashes and reads a lock that is there; only our own wheel, built just now, has none."""
    for each in stages()[1]:
        for command in (part for run in each.all("RUN") for part in run.split("&&") if "pip install" in part):
            if "--no-deps" in command:
                assert command.split()[-1] == "/dist/*.whl"
                continue
            assert "--require-hashes" in command
            lock = ROOT / command.split("-r ")[1].split()[0]
            assert "--hash=sha256:" in lock.read_text()


def test_nothing_is_fetched_beside_that() -> None:
    """No downloads by other means, and no ADD, which would."""
    for each in stages()[1]:
        assert each.all("ADD") == []
        assert not re.search(r"\b(curl|wget|apt-get|git)\b", " ".join(each.all("RUN")))


def test_what_is_copied_is_let_through_and_is_there() -> None:
    """The ignore file shuts out all but what the recipe takes, so that no secret beside it can get in."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    let = {line[1:] for line in ignored if line.startswith("!")}
    copies = [
        source
        for each in stages()[1]
        for copy in each.all("COPY")
        if "--from" not in copy
        for source in copy.split()[:-1]
    ]
    for source in copies:
        assert (ROOT / source).exists(), source
        assert {source, str(Path(source).parent)} & let or source.split("/")[0] in let, source
    used = {name for name in let if any(source == name or source.startswith(name + "/") for source in copies)}
    assert let == used


def test_all_of_our_packages_are_in_it() -> None:
    """What the wheel is made of is copied before it is built."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {source for copy in stage("build").all("COPY") for source in copy.split()[:-1]}
    assert {name.split("/")[0] for name in wheel["packages"]} <= copied


def test_the_service_runs_without_rights() -> None:
    """By a user's number, which Kubernetes can check, that isn't root's; nothing is installed where it is shipped."""
    service = stage("service")
    assert service.all("USER") == ["10001:10001"]
    assert [name for name, _ in service.instructions].index("USER") > len(service.all("RUN"))
    assert "pip" not in " ".join(service.all("RUN"))
    assert service.all("COPY") == ["--from=build /opt/tollbridge /opt/tollbridge"]


def test_services_share_the_layer_that_is_large() -> None:
    """Which service it is becomes known after all files are there."""
    names = [f"{keyword} {rest}".split("=")[0] for keyword, rest in stage("service").instructions]
    assert names.index("ARG SERVICE") > max(at for at, name in enumerate(names) if name.startswith(("COPY", "RUN")))


def test_it_says_what_it_is() -> None:
    """Title, description, version, revision and licence are labels."""
    (labels,) = stage("service").all("LABEL")
    found = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels))
    assert {"title", "description", "version", "revision", "licenses"} <= found
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in stage("service").all("ARG")


def test_its_health_is_its_readiness() -> None:
    """The check asks the port that metrics are bound to for a path that every service answers, within its own time."""
    service = stage("service")
    (check,) = service.all("HEALTHCHECK")
    environment = " ".join(service.all("ENV"))
    port = re.search(r"TOLLBRIDGE_METRICS_BIND=0\.0\.0\.0:(\d+)", environment)
    assert port is not None
    assert f"'127.0.0.1', {port[1]}, timeout=" in check
    assert "'GET', '/readyz'" in check
    assert 'b"/readyz"' in (ROOT / "chassis" / "health.py").read_text()
    given = re.search(r"--timeout=(\d+)s", check)
    asked = re.search(r"timeout=(\d+)\)", check)
    assert given is not None
    assert asked is not None
    assert int(asked[1]) < int(given[1])


def test_ports_are_told() -> None:
    """EXPOSE names what the service binds."""
    service = stage("service")
    bound = re.findall(r"_BIND=0\.0\.0\.0:(\d+)", " ".join(service.all("ENV")))
    assert sorted(service.all("EXPOSE")[0].split()) == sorted(bound)


def test_a_container_is_a_replica_of_its_own_name(tmp_path: Path) -> None:
    """The entry point becomes the service, and names the replica after the container unless that is told otherwise."""
    command = json.loads(stage("service").all("ENTRYPOINT")[0])
    program = tmp_path / "tollbridge"
    program.write_text('#!/bin/sh\necho "$TOLLBRIDGE_REPLICA $*"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOSTNAME": "c0ffee", "TOLLBRIDGE_SERVICE": "edge"}
    for told, name in (({}, "c0ffee"), ({"TOLLBRIDGE_REPLICA": "edge-3"}, "edge-3")):
        done = subprocess.run([*command, "--check"], env=environment | told, capture_output=True, text=True, check=True)
        assert done.stdout == f"{name} serve edge --check\n"


def test_the_linter_finds_nothing() -> None:
    """hadolint, where it is installed (requirements/checks.txt)."""
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed: requirements/checks.txt")
    done = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def packed(*members: tuple[str, bytes, int], time_s: int = 0) -> io.BytesIO:
    """A tar file of those names, contents and modes."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content, mode in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), mode, time_s
            archive.addfile(member, io.BytesIO(content))
    target.seek(0)
    return target


def test_two_builds_are_compared_by_what_they_hold_and_not_by_when() -> None:
    """Order and times don't matter; content, mode and name do; what lies elsewhere isn't looked at."""
    first = [("opt/a", b"1", 0o644), ("opt/b", b"2", 0o755)]
    lines = contents.lines(packed(*first), "opt")
    assert contents.lines(packed(*reversed(first), ("optional/x", b"3", 0o644), time_s=9), "opt") == lines
    for changed in (("opt/b", b"3", 0o755), ("opt/b", b"2", 0o644), ("opt/c", b"2", 0o755)):
        assert contents.lines(packed(first[0], changed), "opt") != lines


def test_the_parts_list_names_debians_packages_that_are_installed() -> None:
    """By their package URL, in which a version's signs are encoded; what was removed isn't there."""
    (found,) = sbom.debian_packages(DPKG)
    assert found["purl"] == "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64"


def test_the_parts_list_keeps_what_was_found_and_adds_the_interpreter() -> None:
    """Components are added to, nothing else is changed."""
    whole = sbom.complete({"bomFormat": "CycloneDX", "components": [{"name": "msgspec"}]}, [sbom.interpreter("3.13.5")])
    assert whole["bomFormat"] == "CycloneDX"
    parts = whole["components"]
    assert isinstance(parts, list)
    assert [each["name"] for each in parts] == ["msgspec", "python"]
