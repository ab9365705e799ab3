"""What bootstrap does where Python can't make virtual environments, with an apt-get that only writes down its calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import bootstrap
folder = Path({folder!r})
bootstrap.VENV, bootstrap.BIN, bootstrap.PYTHON = folder / "venv", folder / "venv/bin", folder / "venv/bin/python"
bootstrap.sys.executable = str(folder / "bin/python3")
bootstrap.os.geteuid = lambda: {uid}
bootstrap.make_venv()
"""
PYTHON = """#!/bin/sh
# A Python without ensurepip and virtualenv until apt-get has installed python3-venv.
case "$*" in
  *"import ensurepip"*|*"import virtualenv"*) exit 1 ;;
  "-m venv "*) test -e "{folder}/installed" && mkdir -p "$3/bin" && touch "$3/bin/python" ;;
esac
"""
APT = """#!/bin/sh
echo "$*" >> "{folder}/calls"
case "$1" in install) {install} ;; esac
"""


def make_venv(folder: Path, *, uid: int, install: str) -> subprocess.CompletedProcess[str]:
    """Runs bootstrap's `make_venv` with only the stand-ins and the shell's own tools on PATH."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("python3", PYTHON), ("apt-get", APT)):
        (programs / name).write_text(text.format(folder=folder, install=install))
        (programs / name).chmod(0o755)
    for name in ("mkdir", "touch"):
        found = next(path for path in (Path("/bin", name), Path("/usr/bin", name)) if path.exists())
        (programs / name).symlink_to(found)
    script = SCRIPT.format(root=str(ROOT), folder=str(folder), uid=uid)
    environ = {**os.environ, "PATH": str(programs)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def calls(folder: Path) -> list[str]:
    """What apt-get was asked for."""
    noted = folder / "calls"
    return noted.read_text().splitlines() if noted.exists() else []


def test_root_installs_what_makes_virtual_environments_and_goes_on(tmp_path):
    """The index is brought up to date first, python3-venv is all that is installed, and it is said."""
    done = make_venv(tmp_path, uid=0, install=f'touch "{tmp_path}/installed"')
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path) == ["update -q", "install -y python3-venv"]
    assert "apt-get install -y python3-venv" in done.stdout
    assert (tmp_path / "venv/bin/python").exists()


@pytest.mark.parametrize(
    ("uid", "asked", "line"), [(0, 2, "    apt-get install"), (1000, 0, "    sudo apt-get install")]
)
def test_who_cannot_install_is_told_the_line_to_run_with_status_2(tmp_path, uid, asked, line):
    """An ordinary user's system is not touched; where apt-get fails, its line is shown."""
    done = make_venv(tmp_path, uid=uid, install="exit 100")
    assert done.returncode == 2
    assert len(calls(tmp_path)) == asked
    assert f"{line} -y python3-venv" in done.stderr
