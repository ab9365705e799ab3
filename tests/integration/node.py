"""Node's packages and programs, for tests of what speaks to the system from there."""

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.running import ROOT

NODE = ROOT / "tests" / "node"
OLDEST = 20


def node_modules() -> Path:
    """Installs the Node packages by their lock, once, whoever comes first; skips where that can't be done."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < OLDEST:
        pytest.skip(f"Node {OLDEST} or newer is needed; this is {version.strip()}")
    modules, lock = NODE / "node_modules", NODE / "package-lock.json"
    with lock.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)  # the tests run in several processes
        stamp, wanted = modules / ".complete", hashlib.sha256(locked.read()).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                pytest.skip(f"the Node packages can't be installed: {done.stderr.strip().splitlines()[-3:]}")
            stamp.write_text(wanted)
    return modules


def run_node(script: str, *arguments: str) -> Any:
    """What a script prints, as JSON; fails unless it succeeds."""
    command = ["node", str(NODE / script), *arguments]
    directory = node_modules().parent
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
