"""The last 1.x of the OpenAI SDK does what the newest does: the same tests, run with it instead.

It can't be installed beside the newest, so it lies in a folder of its own below `.venv`, which is made once.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import bootstrap
from tests.integration.running import ROOT, RUNNING_ALREADY, Gateway

LOCK = ROOT / "requirements" / "openai1.txt"
TESTS = ("openai_sdk", "openai_sdk_errors", "responses", "embeddings", "transcriptions")
CHOSEN = "not node and not claudius-chat and not sandbox-chat"
"""Each promise over one provider: the others differ in what is behind the gateway, which the newest SDK tries too."""
NOT_OURS = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")


@pytest.fixture(scope="module")
def library() -> Path:
    """The folder with it; skips where its lock file can't be followed, as without an index."""
    name = f"openai1-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    folder = Path(sys.prefix) / "sdks" / name
    if folder.exists():
        return folder
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        wanted = ["--only-binary", ":all:", "--require-hashes", "--target", f"{unfinished}/all", "-r", str(LOCK)]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python", sys.executable]
        if not bootstrap.succeeds([*uv, *wanted], env=bootstrap.uv_environment(pip)):  # which takes a tenth of the time
            done = subprocess.run(
                [*pip, "install", "--quiet", *wanted], capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode:
                pytest.skip(f"openai 1.x can't be installed: {done.stderr.strip().splitlines()[-1:]}")
        Path(unfinished, "all").rename(folder)
    return folder


def test_the_last_1_x_does_what_the_newest_does(system: Gateway, library: Path) -> None:
    """The promises of those files, against the system that runs already."""
    environ = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    environ |= {"PYTHONPATH": os.pathsep.join((str(library), str(ROOT))), RUNNING_ALREADY: str(system.data_dir)}
    asked = [sys.executable, "-c", "import openai; print(openai.__version__)"]
    version = subprocess.run(asked, env=environ, capture_output=True, text=True, timeout=60, check=True).stdout
    assert version.startswith("1.")
    files = [str(ROOT / "tests" / "integration" / f"test_{name}.py") for name in TESTS]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "-k",
        CHOSEN,
        *files,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:]
